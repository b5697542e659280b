"""Pair the tensors of the hierarchical autoencoder with those of published state dicts.

Official names number cells and combiners in the order of execution, as our lists do.
``nvae_links`` walks our network and pairs every tensor with its official name. Inside inverted
branches official files hold each convolution's weight a second time under another name;
``nvae_aliases`` lists these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trilemma.autoencoders.nvae import NVAE
from trilemma.autoencoders.nvae_layers import (
    Cell,
    DownSkip,
    Flow,
    InvertedBranch,
    NormedConv,
    NormSwishConv,
)
from trilemma.checkpoints.links import Link, StateDict
from trilemma.errors import CheckpointError

__all__ = ["nvae_aliases", "nvae_links"]


@dataclass(frozen=True)
class Number(Link):
    """A single number, such as a count of batches."""

    def join(self, official: StateDict, shape: torch.Size) -> Tensor:
        """Return our number from the official one."""
        (name,) = self.theirs
        if official[name].shape != shape:
            raise CheckpointError(f"tensor {name!r} must be one number")
        return official[name]

    def split(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the official name and the number."""
        yield self.theirs[0], tensor


def nvae_links(network: NVAE) -> list[Link]:
    """Pair the tensors of the autoencoder, in the order of our state dict."""
    links = [Link("start", ("prior_ftr0",)), *_layer("stem", network.stem, "stem")]
    for ours, theirs in (("pre", "pre_process"), ("encoder", "enc_tower")):
        links += _list(ours, network.get_submodule(ours), theirs)
    for i, cell in enumerate(network.pyramid):
        links += _layer(f"pyramid.{i}", cell, f"progressive_input_cells.{i}.conv")
    for i, conv in enumerate(network.posteriors):
        links += _layer(f"posteriors.{i}", conv, f"enc_sampler.{i}.1")
    number = 0
    for i, pairs in enumerate(network.flows):
        for j, flow in enumerate(pairs.children()):
            links += _flow(f"flows.{i}.{j}", flow, f"nf_cells.{number}")
            number += 1
    links += _list("embed", network.embed, "eps_conv")
    links += _list("decoder", network.decoder, "dec_tower")
    links += _list("post", network.post, "post_process")
    return links + _layer("head", network.head, "image_conditional.1")


def nvae_aliases(network: NVAE) -> dict[str, str]:
    """Second official names of some tensors: from the alias to the name in ``nvae_links``."""
    inner = [f"{name}." for name, m in network.named_modules() if isinstance(m, InvertedBranch)]
    aliases = {}
    for link in nvae_links(network):
        if any(link.ours.startswith(prefix) for prefix in inner):
            part, kind = link.ours.split(".")[-2:]
            if part in ("expand", "filter", "project") and kind == "weight":
                aliases[link.theirs[0].removesuffix("weight") + "weight_normalized"] = link.theirs[
                    0
                ]
    return aliases


def _list(ours: str, layers: nn.Module, theirs: str) -> list[Link]:
    named = layers.named_children()
    return [link for i, x in named for link in _layer(f"{ours}.{i}", x, f"{theirs}.{i}")]


def _layer(ours: str, layer: nn.Module, theirs: str) -> list[Link]:
    if isinstance(layer, Cell):
        return _cell(ours, layer, theirs)
    if isinstance(layer, NormSwishConv):
        norm = _same(f"{ours}.norm", layer.norm, f"{theirs}.bn_act")
        return norm + _layer(f"{ours}.conv", layer.conv, f"{theirs}.conv_0")
    if isinstance(layer, NormedConv):
        links = _same(ours, layer, theirs, leave_out="log_norm")
        return [*links, Link(f"{ours}.log_norm", (f"{theirs}.log_weight_norm",))]
    # A combiner, whose only part has the same name in both.
    return _list(ours, layer, theirs)


def _same(ours: str, layer: nn.Module, theirs: str, leave_out: str = "") -> list[Link]:
    """Links of a layer whose tensors have the same names in both."""
    return [
        (Link if tensor.dim() else Number)(f"{ours}.{name}", (f"{theirs}.{name}",))
        for name, tensor in layer.state_dict().items()
        if name != leave_out
    ]


def _cell(ours: str, cell: Cell, theirs: str) -> list[Link]:
    links: list[Link] = []
    if isinstance(cell.skip, DownSkip):
        for i, conv in enumerate(cell.skip.convs):
            links += _layer(f"{ours}.skip.convs.{i}", conv, f"{theirs}.skip.conv_{i + 1}")
    else:
        for name, conv in cell.skip.named_children():
            links += _layer(f"{ours}.skip.{name}", conv, f"{theirs}.skip.1")
    if isinstance(cell.branch, InvertedBranch):
        links += _inverted(f"{ours}.branch", cell.branch, f"{theirs}._ops.0.conv")
    else:
        links += _list(f"{ours}.branch", cell.branch, f"{theirs}._ops")
    if cell.squeeze is not None:
        for name, index in (("squeeze", 0), ("excite", 2)):
            layer = cell.squeeze.get_submodule(name)
            links += _same(f"{ours}.squeeze.{name}", layer, f"{theirs}.se.se.{index}")
    return links


def _inverted(ours: str, branch: InvertedBranch, theirs: str) -> list[Link]:
    names = ("0.bn", "1.conv.0", "1.conv.1", "2.conv.0", "2.conv.1", "3", "4.bn")
    links: list[Link] = []
    for (name, layer), official in zip(branch.named_children(), names, strict=True):
        index, *rest = official.split(".")
        path = ".".join([str(int(index) + branch.is_up), *rest])
        links += _same(f"{ours}.{name}", layer, f"{theirs}.{path}")
    return links


def _flow(ours: str, flow: nn.Module, theirs: str) -> list[Link]:
    if not isinstance(flow, Flow):
        raise CheckpointError(f"{ours} is a {type(flow).__name__}, not a flow")
    links: list[Link] = []
    for name, cell in (("first", "cell1"), ("second", "cell2")):
        shift = flow.get_submodule(name)
        for part, path in (("expand", "conv.convz.0"), ("filter", "conv.convz.2")):
            links += _layer(
                f"{ours}.{name}.{part}", shift.get_submodule(part), f"{theirs}.{cell}.{path}"
            )
        project = shift.get_submodule("project")
        links += _layer(f"{ours}.{name}.project", project, f"{theirs}.{cell}.mu.conv_0")
    return links
