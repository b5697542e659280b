r"""A deep hierarchical variational autoencoder: NVAE, as latent score-based models use it.

The encoder goes up: cells halve the resolution and features are kept at every *group*. Then a
second pass comes down. A learned constant is the decoder's state; group l reads its posterior

.. math:: q(z_l \mid x, z_{<l}) = N(z_l;\ \mu_l, \sigma_l^2)

from the features kept there plus a channel mix of the state, its latents are drawn and enter the
state, and cells follow. Groups of the smallest resolution come first; if there are larger scales,
each begins with an up cell. More up cells then lead to the image. Means are bounded by
5 tanh(. / 5), log standard deviations likewise by ``log_std_bound``.

The prior of every group is a standard normal law, or a learned one for those of the smallest
resolution, joined on the channels. *Flows* make posteriors richer: a drawn z goes through masked
autoregressive shifts z <- z - m(z), which keep volumes, so the density stays that of the normal
draw.

Source: Vahdat & Kautz: NVAE, 2020; with the changes of Vahdat et al.: LSGM, 2021, appendix G.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trilemma.autoencoders.base import Autoencoder, Inferred, Latent, Normal
from trilemma.autoencoders.images import ImageLaw
from trilemma.autoencoders.likelihoods import Likelihood, full_precision, soft_clamp
from trilemma.autoencoders.nvae_layers import (
    CELLS,
    Cell,
    DecoderCombiner,
    EncoderCombiner,
    Flow,
    NormedConv,
    NormSwishConv,
)
from trilemma.errors import ConfigError, nearest
from trilemma.rng import Rng
from trilemma.typing import Event, Image

__all__ = ["NVAE"]

MEAN_BOUND = 5.0


class NVAE(Autoencoder):
    """Hierarchical autoencoder of images.

    Args:
        image_size: side in pixels, divisible by 2^(num_pre_blocks + num_scales - 1).
        image_channels: of the images.
        encoder_channels: width of the encoder at full resolution.
        decoder_channels: width of the decoder at full resolution.
        channel_mult: width at each resolution in units of these, from the image down; as many
            as num_pre_blocks + num_scales.
        num_scales: resolutions with latents; the smallest one's have the learned prior.
        num_groups: groups of latents at each scale.
        latent_channels: of every group.
        num_pre_blocks: halvings before the first scale, and doublings after the last.
        num_pre_cells: cells for each of these in the encoder, the last of which halves.
        num_post_cells: cells for each of these in the decoder, the first of which doubles.
        encoder_cells: per group, in the encoder.
        decoder_cells: per group, in the decoder.
        cell: "residual" everywhere, or "inverted" in the decoder.
        squeeze_excite: let cells weigh their channels.
        num_flows: pairs of autoregressive shifts after each draw.
        input_skip: lead the encoder's input past its cells to every further scale.
        log_std_bound: of the posterior's log standard deviations.
        likelihood: law of the pixels, a name of ``trilemma.autoencoders.likelihoods``.
        bits: colour depth of the likelihood.
        binarise: make every pixel black or white by chance, by its brightness, at each look.
        crop: border in pixels that the likelihood leaves out; 2 for images padded from 28 to 32.

    Raises:
        ConfigError: for values that do not fit.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int = 3,
        *,
        encoder_channels: int = 32,
        decoder_channels: int = 32,
        channel_mult: Sequence[int] = (1, 2),
        num_scales: int = 1,
        num_groups: int = 2,
        latent_channels: int = 20,
        num_pre_blocks: int = 1,
        num_pre_cells: int = 2,
        num_post_cells: int = 2,
        encoder_cells: int = 1,
        decoder_cells: int = 1,
        cell: str = "residual",
        squeeze_excite: bool = True,
        num_flows: int = 0,
        input_skip: bool = False,
        log_std_bound: float = 5.0,
        likelihood: str = "logistic_mixture",
        bits: int = 8,
        binarise: bool = False,
        crop: int = 0,
    ) -> None:
        super().__init__()
        _check(
            {
                "image_size": image_size,
                "image_channels": image_channels,
                "encoder_channels": encoder_channels,
                "decoder_channels": decoder_channels,
                "num_scales": num_scales,
                "num_groups": num_groups,
                "latent_channels": latent_channels,
                "num_pre_cells": num_pre_cells,
                "num_post_cells": num_post_cells,
            },
            at_least=1,
        )
        _check(
            {
                "num_pre_blocks": num_pre_blocks,
                "encoder_cells": encoder_cells,
                "decoder_cells": decoder_cells,
                "num_flows": num_flows,
            },
            at_least=0,
        )
        if cell not in CELLS:
            raise ConfigError(f"cell={cell!r} is unknown; {nearest(cell, CELLS)}")
        if log_std_bound <= 0:
            raise ConfigError(f"log_std_bound={log_std_bound} must be positive")
        if len(channel_mult) != num_pre_blocks + num_scales or min(channel_mult) < 1:
            raise ConfigError(
                f"channel_mult={list(channel_mult)} must hold {num_pre_blocks + num_scales} "
                f"multipliers >= 1: num_pre_blocks={num_pre_blocks} plus num_scales={num_scales}"
            )
        factor = 2 ** (num_pre_blocks + num_scales - 1)
        if image_size % factor:
            raise ConfigError(
                f"image_size={image_size} must be divisible by {factor}: "
                f"num_pre_blocks={num_pre_blocks} and num_scales={num_scales}; pad or resize"
            )
        if min(encoder_channels * mult for mult in channel_mult) < 4:
            raise ConfigError(f"encoder_channels={encoder_channels} must be at least 4")
        if 2 * crop >= image_size:
            raise ConfigError(f"crop={crop} leaves nothing of image_size={image_size}")

        self.law = ImageLaw(likelihood, image_channels, bits=bits, binarise=binarise, crop=crop)
        self.log_std_bound = log_std_bound
        side = image_size // factor
        self.event_shape = (image_channels, image_size, image_size)
        self.latent_shape = (num_groups * latent_channels, side, side)
        self.groups = (latent_channels,) * num_groups
        self.other_shapes = tuple(
            (latent_channels, side * 2**scale, side * 2**scale)
            for scale in range(1, num_scales)
            for _ in range(num_groups)
        )

        up_widths = [encoder_channels * mult for mult in channel_mult]
        down_widths = [decoder_channels * mult for mult in channel_mult]
        kinds = {"encoder": "residual", "decoder": cell}

        def make(part: str, inputs: int, outputs: int, resample: str, expansion: int = 6) -> Cell:
            return Cell(
                inputs,
                outputs,
                kinds[part],
                resample=resample,
                expansion=expansion,
                squeeze_excite=squeeze_excite,
            )

        # Parameters stand in the order of the encoder, the posteriors, the decoder.
        self.start = nn.Parameter(torch.rand(down_widths[-1], side, side))
        self.stem = NormedConv(image_channels, up_widths[0])
        self.pre = nn.ModuleList()
        for width, wider in pairwise(up_widths[: num_pre_blocks + 1]):
            same = [make("encoder", width, width, "none") for _ in range(num_pre_cells - 1)]
            self.pre.extend([*same, make("encoder", width, wider, "down")])

        self.encoder, self.pyramid = nn.ModuleList(), nn.ModuleList()
        for scale in range(num_scales):
            level = num_pre_blocks + scale
            width, state = up_widths[level], down_widths[level]
            if scale > 0:
                self.encoder.append(make("encoder", up_widths[level - 1], width, "down"))
                if input_skip:
                    self.pyramid.append(NormSwishConv(up_widths[level - 1], width, stride=2))
            for group in range(num_groups):
                self.encoder.extend(
                    make("encoder", width, width, "none") for _ in range(encoder_cells)
                )
                if (scale, group) != (num_scales - 1, num_groups - 1):
                    self.encoder.append(EncoderCombiner(state, width))

        levels = [len(channel_mult) - 1 - i // num_groups for i in range(num_scales * num_groups)]
        self.posteriors = nn.ModuleList(
            NormedConv(up_widths[level], 2 * latent_channels) for level in levels
        )
        self.flows = nn.ModuleList(
            nn.Sequential(*(Flow(latent_channels) for _ in range(num_flows))) for _ in levels
        )
        self.embed = nn.ModuleList(NormedConv(latent_channels, latent_channels) for _ in levels)

        self.decoder = nn.ModuleList()
        for scale in reversed(range(num_scales)):
            level = num_pre_blocks + scale
            width = down_widths[level]
            if scale < num_scales - 1:
                self.decoder.append(make("decoder", down_widths[level + 1], width, "up"))
            for _ in range(num_groups):
                self.decoder.append(DecoderCombiner(width, latent_channels))
                self.decoder.extend(
                    make("decoder", width, width, "none") for _ in range(decoder_cells)
                )

        self.post = nn.ModuleList()
        for level in reversed(range(num_pre_blocks)):
            width = down_widths[level]
            self.post.append(make("decoder", down_widths[level + 1], width, "up", 3))
            self.post.extend(
                make("decoder", width, width, "none", 3) for _ in range(num_post_cells - 1)
            )
        self.head = NormedConv(down_widths[0], self.law.num_parameters)

    def prepare(self, x0: Event, rng: Rng) -> Event:
        """Round to the colour depth, or make black and white."""
        return self.law.prepare(x0, rng)

    def encode(self, x: Event) -> Normal:
        """Posterior of the groups with the learned prior, each given the means of those before.

        Means have gone through the flows: they are what ``decode`` takes. With flows, a
        posterior is no normal law any more; the law returned has its mode and its entropy, since
        flows keep volumes. ``infer`` draws from the posterior itself.
        """
        laws: list[Normal] = []

        def take_mean(group: int, law: Normal) -> Tensor:
            mean = self.flows[group](law.mean)
            laws.append(Normal(mean, law.log_std))
            return mean

        self._infer(x, take_mean)
        top = laws[: len(self.groups)]
        return Normal(
            torch.cat([law.mean for law in top], dim=1),
            torch.cat([law.log_std for law in top], dim=1),
        )

    def infer(self, x: Event, rng: Rng) -> Inferred:
        """Draw latents behind data, with their log-densities; noise in the order of groups."""
        return self._draw(x, rng)[0]

    def forward(self, x: Event, rng: Rng) -> tuple[Inferred, Likelihood]:
        """``infer``, and ``decode`` what was drawn, in a single pass through the decoder.

        In training it also updates the running statistics of every norm once, not twice.
        """
        inferred, state = self._draw(x, rng)
        return inferred, self._finish(state)

    def decode(self, z: Tensor, others: Sequence[Tensor] = ()) -> Likelihood:
        """Law of the pixels.

        Raises:
            ConfigError: if latents have another shape, or groups of larger scales are missing.
        """
        shapes = [tuple(part.shape[1:]) for part in (z, *others)]
        if shapes != [self.latent_shape, *self.other_shapes]:
            raise ConfigError(
                f"latents of shapes {[self.latent_shape, *self.other_shapes]} are needed, "
                f"got {shapes}: draw the other groups from a standard normal law"
            )
        groups = [*self.split(z), *others]
        return self._finish(self._generate(len(z), lambda group, state: groups[group]))

    def _draw(self, x: Event, rng: Rng) -> tuple[Inferred, Image]:
        """Latents, and the decoder's state after them."""
        drawn: list[Latent] = []

        def draw(group: int, law: Normal) -> Tensor:
            raw = law.sample(rng.normal(*law.mean.shape[1:]).to(law.mean))
            z = self.flows[group](raw)
            drawn.append(Latent(z, law.log_prob(raw)))
            return z

        state = self._infer(x, draw)
        top, others = drawn[: len(self.groups)], drawn[len(self.groups) :]
        joined = Latent(
            torch.cat([latent.z for latent in top], dim=1),
            torch.cat([latent.log_q for latent in top], dim=1),
        )
        return Inferred(joined, tuple(others)), state

    def _infer(self, x: Event, choose: Callable[[int, Normal], Tensor]) -> Image:
        """Up and down again, with latents chosen from each posterior in turn."""
        kept, combiners = self._encode(x)

        def read(group: int, state: Image) -> Tensor:
            h = kept[-1 - group]
            if group > 0:
                h = combiners[-group](h, state)
            h = full_precision(self.posteriors[group](F.elu(h)))
            mean, log_std = h.chunk(2, dim=1)
            law = Normal(soft_clamp(mean, MEAN_BOUND), soft_clamp(log_std, self.log_std_bound))
            return choose(group, law)

        return self._generate(len(x), read)

    def _encode(self, x: Event) -> tuple[list[Image], list[nn.Module]]:
        """Features at every group, in the encoder's order, and the combiners of all but one."""
        h = self.stem(x)
        for layer in self.pre:
            h = layer(h)
        kept: list[Image] = []
        combiners: list[nn.Module] = []
        pyramid, narrower = h, iter(self.pyramid)
        for layer in self.encoder:
            if isinstance(layer, EncoderCombiner):
                kept.append(h)
                combiners.append(layer)
                continue
            h = layer(h)
            if self.pyramid and not isinstance(layer.skip, nn.Identity):
                pyramid = next(narrower)(pyramid)
                h = h + pyramid
        return [*kept, h], combiners

    def _generate(self, num_samples: int, latents: Callable[[int, Image], Tensor]) -> Image:
        """The decoder's state after all groups, whose latents may depend on the state before."""
        state: Image = self.start.expand(num_samples, -1, -1, -1)
        group = 0
        for layer in self.decoder:
            if isinstance(layer, DecoderCombiner):
                z = latents(group, state)
                state = layer(state, self.embed[group](z))
                group += 1
            else:
                state = layer(state)
        return state

    def _finish(self, state: Image) -> Likelihood:
        for layer in self.post:
            state = layer(state)
        return self.law(self.head(F.elu(state)))


def _check(numbers: dict[str, int], *, at_least: int) -> None:
    for name, number in numbers.items():
        if number < at_least:
            raise ConfigError(f"{name}={number} must be at least {at_least}")
