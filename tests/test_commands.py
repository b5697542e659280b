"""Samplers, editing and likelihoods on the command line."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import fails, pictures, plain, trained  # noqa: F401
from tiny import write_pictures

from trilemma.cli import main
from trilemma.config import build_method, resolve
from trilemma.data import Toy
from trilemma.metrics import grid_modes, mnist_reference
from trilemma.pipeline import load, save_pipeline

NETWORK = {
    "image_size": 8,
    "in_channels": 1,
    "channels": 4,
    "channel_mult": [1, 1],
    "num_res_blocks": 1,
    "time_embedding": "fourier",
}


def saved(folder, name, entry):
    torch.manual_seed(0)
    entry = resolve({"method": entry})["method"]
    method = build_method(entry)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_pipeline(folder / name, method, entry, (1, 8, 8))
    return folder / name


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    network = {"class_path": "NCSNpp", "init_args": {**NETWORK, "num_classes": 3}}
    entry = {"class_path": "DDPM", "init_args": {"network": network, "mixed_score": True}}
    return saved(tmp_path_factory.mktemp("models"), "ddpm.safetensors", entry)


@pytest.fixture(scope="module")
def cld(tmp_path_factory):
    sizes = {**NETWORK, "in_channels": 2, "out_channels": 1}
    network = {"class_path": "NCSNpp", "init_args": sizes}
    entry = {"class_path": "CLDSGM", "init_args": {"network": network}}
    return saved(tmp_path_factory.mktemp("models"), "cld.safetensors", entry)


def run(capsys, *arguments):
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 0
    return plain(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ("--sampler sscs --steps 5 --grid quadratic", 5),
        ("--sampler gddim --sampler.num_history 3 --steps 6", 6),
        ("--sampler heun --steps 3", 5),
        ("--sampler euler-maruyama --steps 4 --final drift", 4),
        ("--sampler euler_maruyama --steps 4 --final x0", 4),
        ("--sampler euler_maruyama --steps 4 --final none", 4),
        ("--sampler ode --sampler.solver=rk4 --steps 3 --grid uniform", 9),
        ("--steps 7", 7),
    ],
)
def test_samplers_are_chosen_by_name_and_calls_are_counted(cld, options, calls, tmp_path, capsys):
    out = tmp_path / "drawn.npz"
    text = run(capsys, "sample", cld, "-n", 3, *options.split(), "-o", out)
    assert f"3 samples in {calls} network calls each" in text
    assert np.load(out)["arr_0"].shape == (3, 8, 8, 1)


def test_tolerances_are_numbers_however_they_are_written(cld, tmp_path, capsys):
    calls = []
    for tolerance in ("1e-1", "0.1", "1e-4"):
        options = ["--sampler.rtol", tolerance, "--sampler.atol", tolerance]
        out = tmp_path / "drawn.npz"
        text = run(capsys, "sample", cld, "-n", 2, "--sampler", "ode", *options, "-o", out)
        calls.append(int(text.split("samples in ")[1].split()[0]))
    assert calls[0] == calls[1] < calls[2]


def test_the_command_line_draws_what_python_draws(cld, tmp_path, capsys):
    out = tmp_path / "drawn.npz"
    run(capsys, "sample", cld, "-n", 2, "--sampler", "sscs", "--steps", 4, "--seed", 5, "-o", out)
    drawn = load(cld).sample(2, sampler="sscs", num_steps=4, seed=5)
    expected = ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert np.array_equal(np.load(out)["arr_0"], expected.permute(0, 2, 3, 1).numpy())


def test_guidance_counts_two_calls(ddpm, tmp_path, capsys):
    call = ["sample", ddpm, "-n", 3, "--steps", 4, "--class-label", 1, "-o", tmp_path / "a.png"]
    assert "4 network calls" in run(capsys, *call)
    assert "8 network calls" in run(capsys, *call, "--guidance", 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--sampler sscz", "did you mean 'sscs'"),
        ("--sampler sscs --sampler.churn 3", "no argument 'churn'"),
        ("--sampler.num_history 3", "needs --sampler NAME"),
        ("--sampler ode --sampler.rtol tight", "a finite number is needed.*tight"),
        ("--sampler ode --sampler.solver dopri6", "dopri5.*dopri6"),
        ("--sampler gddim --sampler.num_history 1.5", "a whole number is needed.*1.5"),
        ("--sampler gddim --sampler.num_history 0", "num_history=0"),
        ("--sampler dpm_solver", "one block.*use gddim"),
        ("--grid quadratik", "did you mean 'quadratic'"),
        ("--steps 0", "num_steps=0"),
        ("--guidance 2", "trained with labels"),
        ("--sample.steps 3", "unrecognized arguments: --sample.steps"),
        ("--sampler heun --sampler.churn 2", "set churn to 0"),
        ("--final lunch", "invalid choice"),
    ],
)
def test_sampler_mistakes(cld, options, words, tmp_path, capsys):
    fails(["sample", cld, "-n", 2, *options.split(), "-o", tmp_path / "a.png"], words, capsys)
    assert not (tmp_path / "a.png").exists()


def test_a_gan_has_no_other_sampler_and_no_likelihood(trained, pictures, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "a.png"
    fails(["sample", trained, "--sampler", "sscs", "-o", out], "use the ancestral sampler", capsys)
    fails(["sample", trained, "--grid", "rho", "-o", out], "uniform grid", capsys)
    fails(["likelihood", trained, "--data", pictures, "--split", "train"], "no density", capsys)


def drawing(path, value):
    Image.fromarray(np.full((10, 12), value, dtype=np.uint8)).save(path)
    return path


def claims_to_be(side):
    """A small PNG whose header tells of a grey square of a side."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")):
        found += struct.pack(">I", len(data)) + name + data
        found += struct.pack(">I", zlib.crc32(name + data))
    return found


def test_editing_a_picture(cld, tmp_path, capsys):
    picture = drawing(tmp_path / "a.png", 200)
    call = ["edit", cld, picture, "--strength", 0.3, "-n", 4, "--steps", 10, "--grid", "uniform"]
    text = run(capsys, *call, "-o", tmp_path / "out.png")
    assert "4 variations from strength 0.3, 3 network calls each" in text
    with Image.open(tmp_path / "out.png") as grid:
        assert grid.width > 4 * grid.height  # the original and four variations in one row
    run(capsys, *call, "-o", tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["arr_0"].shape == (4, 8, 8, 1)


def test_editing_a_folder_in_order_of_names(cld, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for i, value in enumerate((0, 255)):
        drawing(folder / f"{i}.png", value)
    (folder / ".DS_Store").write_bytes(b"not a picture")
    call = ["edit", cld, folder, "--strength", 0.002, "-n", 1, "--steps", 500, "-o"]
    run(capsys, *call, tmp_path / "out.npz", "--grid", "uniform")
    dark, bright = np.load(tmp_path / "out.npz")["arr_0"]
    assert dark.mean() < 60
    assert bright.mean() > 195


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.png", "--strength 0", r"strength=0.0 must lie in \(0, 1\]"),
        ("a.png", "--strength 1.5", r"strength=1.5 must lie in \(0, 1\]"),
        ("absent.png", "", "absent.png does not exist"),
        ("broken.png", "", "broken.png cannot be read .not a picture"),
        ("huge.png", "", "huge.png cannot be read .*decompression bomb"),
        ("a.png", "-n 0", "at least 1"),
        ("a.png", "-o out.csv", r"-o out\.csv: give a name ending in \.png or \.npz"),
    ],
)
def test_editing_mistakes(cld, name, options, words, tmp_path, capsys):
    drawing(tmp_path / "a.png", 3)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "huge.png").write_bytes(claims_to_be(20_000))
    call = ["edit", cld, tmp_path / name, "-o", tmp_path / "out.png", *options.split()]
    fails(call, words, capsys)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("model", "kind"), [("ddpm", "NLL by the probability flow"), ("cld", "upper bound on the NLL")]
)
def test_likelihood_says_what_it_is(model, kind, request, tmp_path, capsys):
    data = write_pictures(tmp_path / "data.npz", 6, 8, 1)
    path, out = request.getfixturevalue(model), tmp_path / "nll.json"
    if model == "ddpm":
        content = dict(np.load(data))
        np.savez(data, arr_0=content["arr_0"], arr_1=content["arr_1"] % 3)
    call = ["likelihood", path, "--data", data, "--split", "train", "-n", 5, "--tolerance", 1e-3]
    text = run(capsys, *call, "--json", out)
    found = json.loads(out.read_text())
    assert kind in text
    assert kind in found["kind"]
    assert f"{found['bits_per_dim']:.4f} ± {found['bits_per_dim_interval']:.4f} bits" in text
    bits = found["nats"] / (64 * np.log(2)) + 7
    assert found["bits_per_dim"] == pytest.approx(bits, rel=1e-6)
    assert found["num"] == 5
    again = run(capsys, *call, "--batch-size", 2)  # the solver's steps depend on the batch
    first, second = (float(line.split(" ±")[0]) for line in (text, again))
    assert second == pytest.approx(first, abs=0.05)


def test_likelihood_mistakes(cld, tmp_path, capsys):
    data = write_pictures(tmp_path / "data.npz", 6, 8, 1)
    call = ["likelihood", cld, "--data", data, "--split", "train"]
    fails([*call, "--tolerance", "0"], "must be positive", capsys)
    fails([*call, "-n", "0"], "at least 1", capsys)
    fails([*call, "--divergence", "none"], "invalid choice", capsys)
    fails(["likelihood", cld, "--data", tmp_path / "no"], "no", capsys)


def test_points_are_judged_in_the_scale_of_their_training(tmp_path, capsys):
    """A model of the 25 Gaussians at scale 1 is held to data at scale 1, whatever their default."""
    network = {"class_path": "PointScore", "init_args": {"width": 4, "num_layers": 2}}
    arguments = {"network": network, "mixed_score": True}
    entry = resolve({"method": {"class_path": "DDPM", "init_args": arguments}})
    method = build_method(entry["method"])
    for parameter in method.parameters():
        torch.nn.init.zeros_(parameter)  # samples are a round cloud
    found = {}
    for scale in (1.0, 3.0):
        path = tmp_path / f"{scale}.safetensors"
        save_pipeline(path, method, entry["method"], (2,), card={"scale": scale})
        out = tmp_path / f"{scale}.json"
        call = ["evaluate", path, "--data", "grid25", "-n", 2000, "--steps", 3, "--json", out]
        run(capsys, *call)
        found[scale] = {r["name"]: r["value"] for r in json.loads(out.read_text())}
    for scale, values in found.items():
        toy = Toy("grid25", scale=scale)
        drawn = load(tmp_path / f"{scale}.safetensors").sample(2000, num_steps=3)
        expected = grid_modes(toy.to_data_units(drawn), toy.modes, toy.std)
        assert values["high_quality"] == expected.high_quality
        assert values["num_modes"] == expected.num_hit
    assert found[1.0] != found[3.0]


AUTOENCODER = {
    "class_path": "ResidualVAE",
    "init_args": {
        "image_size": 8,
        "image_channels": 1,
        "channels": 4,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "latent_channels": 2,
    },
}
IN_LATENTS = {**NETWORK, "image_size": 4, "in_channels": 2, "channel_mult": [1]}


def latent_model(folder, kind, likelihood):
    """A tiny VAE, or one with a diffusion model or a GAN in its latents, saved with its recipe."""
    arguments = {**AUTOENCODER["init_args"], "likelihood": likelihood}
    arguments["binarise"] = likelihood == "bernoulli"
    autoencoder = {**AUTOENCODER, "init_args": arguments}
    entry = {"class_path": "VAE", "init_args": {"autoencoder": autoencoder}}
    if kind == "lsgm":
        network = {"class_path": "NCSNpp", "init_args": IN_LATENTS}
        prior = {"class_path": "DDPM", "init_args": {"network": network, "mixed_score": True}}
        entry = {"class_path": "LSGM", "init_args": {"autoencoder": autoencoder, "prior": prior}}
    if kind == "gan":
        sizes = {k: v for k, v in IN_LATENTS.items() if k != "time_embedding"}
        generator = {"class_path": "NCSNpp", "init_args": {**sizes, "code_dim": 3, "style_dim": 4}}
        prior = {"class_path": "DDGAN", "init_args": {"generator": generator}}
        arguments = {"autoencoder": autoencoder, "prior": prior, "train_autoencoder": False}
        entry = {"class_path": "LSGM", "init_args": arguments}
    return saved(folder, f"{kind}-{likelihood}.safetensors", entry)


@pytest.mark.parametrize(
    ("kind", "likelihood", "draws"),
    [("vae", "logistic", 1), ("vae", "laplace", 2), ("lsgm", "bernoulli", 2)],
)
def test_likelihood_of_latent_models(kind, likelihood, draws, tmp_path, capsys):
    """A bound with its terms; bits per dimension where the law is of the data themselves."""
    model, out = latent_model(tmp_path, kind, likelihood), tmp_path / "nll.json"
    data = write_pictures(tmp_path / "data.npz", 6, 8, 1)
    call = ["likelihood", model, "--data", data, "--split", "train", "-n", 5, "--tolerance", 1e-2]
    text = run(capsys, *call, "--draws", draws, "--json", out)
    found = json.loads(out.read_text())
    bound = "negative evidence bound (NELBO)"
    if draws > 1:
        bound = f"importance-weighted bound of {draws} draws"
    is_density = likelihood == "laplace"
    kind_in_words = f"upper bound on the NLL: {bound}" + (", of a density" if is_density else "")
    assert found["kind"] == kind_in_words
    assert kind_in_words in text
    assert (found["num"], found["num_draws"]) == (5, draws)
    assert found["nats"] <= found["reconstruction"] + found["kl"] + 1e-6
    assert (found["nfe"] > 0) == (kind == "lsgm") == ("network calls" in text)
    names = {"kind", "num", "nfe", "nats", "nats_interval", "num_draws", "reconstruction", "kl"}
    names |= {"reconstruction_interval", "kl_interval"}
    if is_density:
        assert "of a density in the units of the network's data" in text
        assert set(found) == names
    else:
        assert set(found) == {*names, "bits_per_dim", "bits_per_dim_interval"}
        assert found["bits_per_dim"] == pytest.approx(found["nats"] / (64 * np.log(2)), rel=1e-6)
        assert f"{found['bits_per_dim']:.4f} ± " in text
    assert f"{found['nats']:.2f} ± {found['nats_interval']:.2f} nats per datum" in text
    assert f"reconstruction {found['reconstruction']:.2f} ± " in text
    assert f"KL {found['kl']:.2f} ± " in text
    assert "dequantised" not in text


def test_likelihood_mistakes_in_latents(ddpm, tmp_path, capsys):
    data = write_pictures(tmp_path / "data.npz", 6, 8, 1)
    rest = ["--data", data, "--split", "train"]
    fails(["likelihood", ddpm, *rest, "--draws", "2"], "2 draws: DDPM has no autoencoder", capsys)
    fails(["likelihood", ddpm, *rest, "--draws", "0"], "--draws 0: at least 1", capsys)
    gan = latent_model(tmp_path, "gan", "logistic")
    fails(["likelihood", gan, *rest], "no density", capsys)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    sizes = {"image_size": 8, "image_channels": 1, "channels": 8, "latent_channels": 2}
    autoencoder = {"class_path": "ResidualVAE", "init_args": {**sizes, "num_blocks": 1}}
    entry = {"class_path": "VAE", "init_args": {"autoencoder": autoencoder}}
    return saved(tmp_path_factory.mktemp("models"), "vae.safetensors", entry)


def cells(path, columns, rows):
    """The pictures of a grid of 8 x 8, eight times enlarged, as bytes (rows, columns, 8, 8)."""
    with Image.open(path) as grid:
        assert grid.size == (8 * (10 * columns + 2), 8 * (10 * rows + 2))
        small = np.asarray(grid)[::8, ::8]
    return np.stack(
        [[small[2 + 10 * i :, 2 + 10 * j :][:8, :8] for j in range(columns)] for i in range(rows)]
    )


def test_a_grid_of_paths_leads_from_sample_to_sample(cld, tmp_path, capsys):
    walk = ["--steps", 3, "--seed", 2, "--batch-size", 1]
    call = ["interpolate", cld, "--rows", 2, "--frames", 4, *walk]
    text = run(capsys, *call, "-o", tmp_path / "a.png")
    assert "2 paths of 4 frames, 3 network calls each" in text
    found = cells(tmp_path / "a.png", 4, 2)
    run(capsys, "sample", cld, "-n", 4, *walk, "-o", tmp_path / "a.npz")
    samples = np.load(tmp_path / "a.npz")["arr_0"][..., 0]
    assert np.array_equal(found[:, [0, -1]].reshape(4, 8, 8), samples)
    call = ["interpolate", cld, "--from", 3, "--to", 0, "--frames", 2, *walk]
    run(capsys, *call, "-o", tmp_path / "b.png")
    assert np.array_equal(cells(tmp_path / "b.png", 2, 1)[0], samples[[3, 0]])


def test_an_animation_goes_there_and_back(cld, tmp_path, capsys):
    call = ["interpolate", cld, "--frames", 5, "--steps", 2, "--fps", 20]
    run(capsys, *call, "-o", tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.info["loop"], film.info["duration"]) == (8, 0, 50)
        assert film.size == (12 * (4 * 10 + 2), 12 * (2 * 10 + 2))
        frames = []
        for i in range(8):
            film.seek(i)
            frames.append(np.asarray(film.convert("L")).astype(int))
    assert np.array_equal(frames[1], frames[7])
    assert np.array_equal(frames[3], frames[5])
    assert not np.array_equal(frames[0], frames[4])
    run(capsys, *call, "--walk", "--rows", 3, "--radius", 1.5, "-o", tmp_path / "b.gif")
    with Image.open(tmp_path / "b.gif") as film:
        assert film.n_frames == 5
        assert film.size == (12 * (3 * 10 + 2), 12 * (10 + 2))


def test_frames_are_spaced_by_lengths_on_request(cld, vae, tmp_path, capsys):
    call = ["interpolate", cld, "--rows", 1, "--frames", 4, "--steps", 2, "-o", tmp_path / "a.png"]
    assert "4 frames, 2 network calls each" in run(capsys, *call)
    by_angle = cells(tmp_path / "a.png", 4, 1)
    assert "4 frames, 12 network calls each" in run(capsys, *call, "--spacing", "length")
    by_length = cells(tmp_path / "a.png", 4, 1)
    assert np.array_equal(by_length[:, [0, -1]], by_angle[:, [0, -1]])
    assert not np.array_equal(by_length, by_angle)
    call[1] = vae
    run(capsys, *call[:6], "-o", tmp_path / "a.png")
    run(capsys, *call[:6], "--spacing", "length", "-o", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_rows_of_a_table_are_no_pictures(tmp_path, capsys):
    network = {"class_path": "PointScore", "init_args": {"inputs": 2, "width": 4}}
    entry = resolve({"method": {"class_path": "DDPM", "init_args": {"network": network}}})["method"]
    for name, card in (("table", {"table": {"columns": ["a", "b"]}}), ("points", {})):
        file = tmp_path / f"{name}.safetensors"
        save_pipeline(file, build_method(entry), entry, (2,), card=card)
        words = {"table": "draws rows of a table, not images", "points": "draws points, not"}[name]
        for command, *options in (["interpolate"], ["reconstruct", "--data", "a.csv"]):
            fails([command, file, *options, "-o", tmp_path / "a.png"], words, capsys)
    assert not (tmp_path / "a.png").exists()


def test_pictures_are_ends_of_paths(cld, vae, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for i, value in enumerate((20, 220)):
        drawing(folder / f"{i}.png", value)
    ends = ["--from", folder / "0.png", "--to", folder / "1.png", "--frames", 3]
    solver = ["--sampler", "ode", "--sampler.rtol", "1e-3", "--sampler.atol", "1e-3"]
    run(capsys, "interpolate", cld, *ends, *solver, "-o", tmp_path / "a.png")
    first, _, last = cells(tmp_path / "a.png", 3, 1)[0].astype(int)
    assert abs(first - 20).mean() < 5
    assert abs(last - 220).mean() < 5
    text = run(capsys, "interpolate", vae, "--from", folder, "--walk", "-o", tmp_path / "b.png")
    assert "2 paths of 9 frames, 0 network calls" in text
    cells(tmp_path / "b.png", 9, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-o a.webm", r"a\.webm: give a name ending in \.png, \.gif or \.mp4"),
        ("-o a.png --frames 1", "--frames 1: at least 2"),
        ("-o a.png --rows 0", "--rows 0: at least 1"),
        ("-o a.gif --fps 0", "--fps 0.0 must lie in"),
        ("-o a.png --radius 1", "--radius 1.0 needs --walk"),
        ("-o a.png --walk --radius 2", r"radius=2.0 must lie in"),
        ("-o a.png --walk --spacing length", "--spacing length and --walk exclude"),
        ("-o a.png --to 1", "--to 1 needs --from"),
        ("-o a.png --from 1", "the path needs an end"),
        ("-o a.png --from 1 --to 2 --walk", "a walk ends where it starts"),
        ("-o a.png --from 1 --to 1", "sample 1 to itself"),
        ("-o a.png --from 1 --to 2 --rows 3", "exclude each other"),
        ("-o a.png --from 1 --to no.png", "no.png"),
        ("-o a.png --from 1 --to two.png", "not one of each"),
        ("-o a.png --from two.png --to in", "has 1 pictures, --to in has 2"),
        ("-o a.png --from two.png --to two.png --sampler sscs", "SSCS has no inverse"),
        ("-o a.png --sampler.num_history 3", "needs --sampler NAME"),
        ("-o a.png --temperature -1", "temperature=-1.0"),
        ("-o a.png --class-label 1", "without labels"),
    ],
)
def test_interpolation_mistakes(cld, options, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("two.png", "in/0.png", "in/1.png"):
        drawing(tmp_path / name, 3)
    before = sorted(tmp_path.iterdir())
    fails(["interpolate", cld, "--steps", 2, *options.split()], words, capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_a_gan_joins_samples_alone(trained, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "a.png"
    assert "1 path of 9 frames" in run(capsys, "interpolate", trained, "--rows", 1, "-o", out)
    drawing(tmp_path / "in.png", 3)
    call = ["interpolate", trained, "--from", tmp_path / "in.png", "--walk", "-o", out]
    fails(call, "no probability flow", capsys)


def test_reconstructions_stand_below_their_originals(vae, ddpm, tmp_path, capsys):
    data = write_pictures(tmp_path / "data.npz", 12, 8, 1)
    call = ["--data", data, "--split", "train", "-o", tmp_path / "a.png"]
    text = run(capsys, "reconstruct", vae, *call)
    originals = np.load(data)["arr_0"][..., 0]
    found = cells(tmp_path / "a.png", 10, 4)
    assert np.array_equal(found[0], originals[:10])
    assert np.array_equal(found[2, :2], originals[10:])
    assert (found[2:, 2:] == 255).all()
    again = np.concatenate([found[1], found[3, :2]]).astype(float)
    errors = again - originals
    assert f"squared error {(errors**2).mean():.2f}, mean absolute error" in text
    assert f"{abs(errors).mean():.2f}: {tmp_path / 'a.png'}" in text
    assert "3 pictures" in run(capsys, "reconstruct", vae, *call, "-n", 3)
    fails(["reconstruct", ddpm, *call], "DDPM has no autoencoder", capsys)
    fails(["reconstruct", vae, *call, "-n", 0], "at least 1", capsys)
    fails(["reconstruct", vae, *call[:-1], "a.gif"], r"ending in \.png", capsys)


def test_a_strip_of_states_from_noise_to_samples(cld, tmp_path, capsys):
    walk = ["sample", cld, "-n", 3, "--steps", 6]
    run(capsys, *walk, "--trajectory", 4, "-o", tmp_path / "a.png")
    run(capsys, *walk, "-o", tmp_path / "a.npz")
    found = cells(tmp_path / "a.png", 4, 3)
    states = load(cld).sample(3, num_steps=6, return_trajectory=True)[::2, :, 0]
    expected = ((states + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).transpose(0, 1)
    assert np.array_equal(found, expected.numpy())
    assert np.array_equal(found[:, -1], np.load(tmp_path / "a.npz")["arr_0"][..., 0])


def test_temperature_scales_the_starting_noise(cld, tmp_path, capsys):
    call = ["sample", cld, "-n", 2, "--steps", 3, "-o", tmp_path / "a.npz", "--temperature", 0]
    run(capsys, *call)  # a deterministic sampler from nothing: all samples are the same
    first, second = np.load(tmp_path / "a.npz")["arr_0"]
    assert np.array_equal(first, second)


@pytest.mark.parametrize("are_digits", [True, False])
def test_features_of_digits_for_other_pictures_are_told(tmp_path, capsys, are_digits):
    """Their size chooses them; what the pictures show does not."""
    images = mnist_reference().images[:80].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "drawn.npz", arr_0=images[:40])
    np.savez(tmp_path / "real.npz", arr_0=images[40:] if are_digits else 255 - images[40:])
    call = [
        "evaluate",
        str(tmp_path / "drawn.npz"),
        "--data",
        str(tmp_path / "real.npz"),
        "-n",
        "40",
    ]
    assert main(call) == 0
    assert ("show no digits" in capsys.readouterr().out) != are_digits
    assert main([*call, "--extractor", "digits"]) == 0
    assert "show no digits" not in capsys.readouterr().out
