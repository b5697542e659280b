"""Links of the hierarchical autoencoder: total and exact for every published configuration."""

import hashlib

import pytest
import torch

from trilemma.autoencoders import NVAE
from trilemma.checkpoints.nvae_links import nvae_aliases, nvae_links

BINARY = {"image_size": 32, "image_channels": 1, "likelihood": "bernoulli", "binarise": True}
WIDTH_64 = {"encoder_channels": 64, "decoder_channels": 64}
INVERTED = {"cell": "inverted"}
CELEBA = {
    "image_size": 256,
    **WIDTH_64,
    **INVERTED,
    "encoder_cells": 2,
    "decoder_cells": 2,
    "num_flows": 2,
    "input_skip": True,
    "bits": 5,
}
PUBLISHED = {
    "mnist": {
        **BINARY,
        **WIDTH_64,
        **INVERTED,
        "channel_mult": (1, 2, 2),
        "num_pre_blocks": 2,
        "num_pre_cells": 3,
        "num_post_cells": 3,
    },
    "omniglot": {
        **BINARY,
        **WIDTH_64,
        **INVERTED,
        "num_groups": 3,
        "encoder_cells": 3,
        "decoder_cells": 3,
    },
    "cifar10_fid": {
        "image_size": 32,
        "encoder_channels": 128,
        "decoder_channels": 128,
        "num_groups": 20,
        "latent_channels": 9,
        "encoder_cells": 2,
        "decoder_cells": 2,
    },
    "cifar10_nll": {
        "image_size": 32,
        "encoder_channels": 256,
        "decoder_channels": 256,
        "num_groups": 4,
        "latent_channels": 45,
        "num_pre_cells": 3,
        "num_post_cells": 3,
        "encoder_cells": 3,
        "decoder_cells": 3,
        "num_flows": 2,
    },
    "celeba256_quantitative": {
        **CELEBA,
        "channel_mult": (1, 1, 2, 4),
        "num_scales": 3,
        "num_groups": 8,
    },
    "celeba256_qualitative": {
        **CELEBA,
        "channel_mult": (1, 1, 2),
        "num_scales": 2,
        "num_groups": 10,
    },
}
LISTINGS = {
    "mnist": (
        (40, 8, 8),
        456,
        24,
        3_005_822,
        "02e0c77723d10f92",
        "bd4f17e763625ed5",
    ),
    "omniglot": (
        (60, 16, 16),
        604,
        33,
        5_384_190,
        "c987f3c01671a62d",
        "df95b66df0ccb4e1",
    ),
    "cifar10_fid": (
        (180, 16, 16),
        1938,
        0,
        100_867_740,
        "737fc1b1346322d1",
        "f12cddbffd8f8125",
    ),
    "cifar10_nll": (
        (180, 16, 16),
        778,
        0,
        130_622_772,
        "02c25391e9cdfc8e",
        "ec3fc34459103493",
    ),
    "celeba256_quantitative": (
        (160, 32, 32),
        3622,
        156,
        51_296_572,
        "6fe88e1a31a82ba3",
        "554fc29a2bdbfa94",
    ),
    "celeba256_qualitative": (
        (200, 64, 64),
        2990,
        129,
        17_789_540,
        "682a2ec83cb39a84",
        "99e8000d6f1a26ec",
    ),
}
"""Latent shape, numbers of keys, second names and parameters, and digests of the published state
dict's sorted lines "key shape dtype" and of its parameters' names in their order."""


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", PUBLISHED)
def test_links_are_total_and_exact(name):
    with torch.device("meta"):
        network = NVAE(**PUBLISHED[name])
    state, links, aliases = network.state_dict(), nvae_links(network), nvae_aliases(network)
    assert [link.ours for link in links] == list(state)
    assert all(len(link.theirs) == 1 for link in links)
    official = {link.theirs[0]: state[link.ours] for link in links}
    assert len(official) == len(links)
    assert not set(official) & set(aliases)
    official |= {alias: official[key] for alias, key in aliases.items()}
    keys = sorted(f"{k} {list(v.shape)} {str(v.dtype)[6:]}" for k, v in official.items())
    names = {link.ours: link.theirs[0] for link in links}
    order = [names[ours] for ours, _ in network.named_parameters()]
    count = sum(parameter.numel() for parameter in network.parameters())
    found = (network.latent_shape, len(keys), len(aliases), count, digest(keys), digest(order))
    assert found == LISTINGS[name]
