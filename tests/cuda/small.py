"""Networks and methods of a few thousand weights, on grey pictures of 8 x 8 pixels."""

from __future__ import annotations

import runs
import torch
from torch import nn

from trilemma.autoencoders import NVAE, ResidualVAE
from trilemma.methods import (
    CLDSGM,
    DDGAN,
    DDPM,
    EDM,
    LSGM,
    VAE,
    Importance,
    KLSchedule,
    Likelihood,
)
from trilemma.networks import Discriminator, MixedScore, NCSNpp, StridedDiscriminator


def filled(module: nn.Module) -> nn.Module:
    """Give weights that start at zero small random values, so that every branch counts."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        if parameter.dim() > 0 and not bool(parameter.detach().any()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.1 * noise)
    return module


def unet(size: int, inputs: int, outputs: int | None = None, **options) -> NCSNpp:
    settings = {
        "channels": 8,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (size // 2,),
        **options,
    }
    return NCSNpp(size, inputs, outputs, **settings)


def vae(**options) -> ResidualVAE:
    """Two latent channels of 4 x 4."""
    return ResidualVAE(8, 1, channels=8, num_blocks=1, latent_channels=2, **options)


def nvae() -> NVAE:
    return NVAE(
        8,
        1,
        encoder_channels=8,
        decoder_channels=8,
        channel_mult=(1, 2),
        latent_channels=3,
        num_flows=1,
        likelihood="logistic",
    )


def blend() -> MixedScore:
    return MixedScore(unet(4, 2), 2, logit=-1.0)


def ddgan() -> DDGAN:
    """With labels, and a penalty on gradients at every second step."""
    return runs.make_method("images", dropout=0.0)


def ddpm() -> DDPM:
    return DDPM(unet(8, 1, num_classes=3), label_dropout=0.3, pairing="stratified")


def edm() -> EDM:
    return EDM(unet(8, 1, time_embedding="fourier_linear", fourier_scale=1.0))


def cld() -> CLDSGM:
    return CLDSGM(unet(8, 2, 1, num_classes=3), label_dropout=0.3, pairing="antithetic")


def lsgm() -> LSGM:
    """Both networks in one pass, with their penalties."""
    prior = DDPM(blend(), mixed_score=True, weight=Likelihood())
    return LSGM(vae(likelihood="logistic"), prior, penalty=1e-3, prior_penalty=1e-3)


def lsgm_bernoulli() -> LSGM:
    """Black and white pictures, and each network on a weight of its own."""
    autoencoder = vae(likelihood="bernoulli", binarise=True)
    prior = DDPM(blend(), mixed_score=True)
    return LSGM(autoencoder, prior, times=Importance(Likelihood()))


def latent_cld() -> LSGM:
    return LSGM(vae(), CLDSGM(unet(4, 4, 2)), times=Importance(Likelihood()))


def latent_ddgan() -> LSGM:
    generator = unet(4, 2, code_dim=4, style_dim=8, num_mapping_layers=1)
    discriminator = StridedDiscriminator(4, 2, channels=8, num_layers=1)
    return LSGM(vae(), DDGAN(generator, discriminator, num_steps=2), train_autoencoder=False)


def hierarchical_vae() -> VAE:
    return VAE(nvae(), KLSchedule(0.5, 1.0, steps=10, balance=True), penalty=1e-3)


METHODS = {
    make.__name__: make
    for make in (
        ddgan,
        ddpm,
        edm,
        cld,
        lsgm,
        lsgm_bernoulli,
        latent_cld,
        latent_ddgan,
        hierarchical_vae,
    )
}
"""Methods by name."""


def method_named(name: str):
    """A method, the same weights at every call."""
    torch.manual_seed(0)
    return filled(METHODS[name]())


def discriminator() -> Discriminator:
    return Discriminator(1, channels=8, embed_dim=8, widths=(1, 2), downs=(False, True))


def strided_discriminator() -> StridedDiscriminator:
    return StridedDiscriminator(8, 1, channels=8, num_layers=2, num_classes=3)
