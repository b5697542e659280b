"""Averages of weights, against their formula."""

import pytest
import torch
from pretend import pretend_gpu
from torch import nn

from trilemma.errors import ConfigError
from trilemma.training import EMA


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.register_buffer("count", torch.zeros(2))

    def move(self):
        with torch.no_grad():
            self.weight += torch.randn(3, 2)
            self.count += 1


def follow(decay, num, *, warmup=False):
    net = Net()
    ema, seen = EMA(net, decay, warmup=warmup), []
    for _ in range(num):
        net.move()
        ema.update(net)
        seen.append(net.weight.detach().clone())
    return ema, seen


def test_the_first_update_copies():
    ema, seen = follow(0.99, 1)
    assert torch.equal(ema.network.weight, seen[0])


def test_decay_zero_copies_always():
    ema, seen = follow(0.0, 5)
    torch.testing.assert_close(ema.network.weight.detach(), seen[-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("num", [2, 3, 10])
def test_formula(decay, num):
    """ema_n = decay ema_(n-1) + (1 - decay) w_n, starting at w_1."""
    ema, seen = follow(decay, num)
    expected = seen[0]
    for weight in seen[1:]:
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(ema.network.weight.detach(), expected, rtol=1e-5, atol=1e-6)
    assert ema.num_updates == num


def test_warmup_caps_the_decay():
    ema, seen = follow(0.999, 30, warmup=True)
    expected = torch.zeros_like(seen[0])
    for n, weight in enumerate(seen):
        decay = min(0.999, (1 + n) / (10 + n)) if n else 0.0
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(ema.network.weight.detach(), expected, rtol=1e-4, atol=1e-5)


def test_buffers_are_copied():
    ema, _ = follow(0.9, 4)
    assert torch.equal(ema.network.count, torch.full((2,), 4.0))


def test_the_average_is_a_frozen_copy():
    net = Net()
    before = net.weight.detach().clone()
    ema = EMA(net, 0.9)
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert ema.network.weight.data_ptr() != net.weight.data_ptr()
    net.move()
    ema.update(net)
    net.move()
    assert not torch.equal(ema.network.weight, net.weight)
    assert not torch.equal(ema.network.weight, before)


def test_lent_weights_are_the_averages_and_go_back():
    """Values change hands, and nothing else: no tensor of the network becomes another."""
    ema, _ = follow(0.9, 4)
    net = Net()
    own, average = net.weight.detach().clone(), ema.network.weight.detach().clone()
    parameter, count = net.weight, net.count
    places = {net.weight.data_ptr(), ema.network.weight.data_ptr()}
    with pytest.raises(ZeroDivisionError), ema.lend(net):
        assert net.weight is parameter
        assert net.count is count
        assert torch.equal(net.weight, average)
        assert {net.weight.data_ptr(), ema.network.weight.data_ptr()} == places
        raise ZeroDivisionError
    assert net.weight is parameter
    assert torch.equal(net.weight, own)
    assert torch.equal(ema.network.weight, average)


def test_gradients_pass_through_lent_weights_to_what_comes_before():
    ema, _ = follow(0.9, 4)
    net, x = Net().requires_grad_(False), torch.randn(5, 3, requires_grad=True)
    with ema.lend(net):
        (x @ net.weight).square().sum().backward()
    average = ema.network.weight
    torch.testing.assert_close(x.grad, 2 * x.detach() @ average @ average.T)
    assert net.weight.grad is None
    assert average.grad is None


def test_lending_never_waits_for_a_device(monkeypatch):
    with pretend_gpu(monkeypatch) as gpu:
        net = nn.Linear(3, 2).to("cuda")
        ema, x = EMA(net, 0.9), torch.randn(4, 3, device="cuda", requires_grad=True)
        gpu.syncs.clear()
        with ema.lend(net):
            net(x).sum().backward()
        assert x.grad.device.type == net.weight.device.type == "cuda"
        assert gpu.syncs == []


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, float("nan")])
def test_decay_out_of_range(decay):
    with pytest.raises(ConfigError, match="ema_decay"):
        EMA(Net(), decay)
