"""Tests the benchmarks on tiny problems, except their times."""

import copy
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastconv
import readme_table
from fastconv.testing import Problem
from measure import batch_truth, calls, convolutions, environment, progress, timing
from parts import blocks, layers, networks
from show import compare, headline, plot, table

spec = importlib.util.spec_from_file_location(
    "command", Path(layers.__file__).parents[1] / "__main__.py"
)
command = importlib.util.module_from_spec(spec)
spec.loader.exec_module(command)
main = command.main

CONVOLUTIONS = [
    "mb1ic3ih9iw9oc8kh3kw3ph1pw1_f32_nchw",
    "mb4ic3ih9iw9oc8kh5kw5ph2pw2_f32_nchw",
    "mb16ic8ih9iw8oc16kh3kw3sh2sw2ph1pw1_nobias_f32_nchw",
    "mb3ic8ih7iw7oc8kh3kw3ph1pw1g8_f32_nchw",
]
ALONE = ["mb2ic4ih9iw9_pool3x3s2x2p1x1d1x1c0_f32_nchw", "mb2ic4ih9iw9_relu_f32_nchw"]


@pytest.fixture(autouse=True)
def short(monkeypatch, one_thread):
    """Makes as few calls as possible."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)


def small_layer(text, network="Small"):
    problem = Problem.parse(text)
    return layers.Layer(network, problem.replace(n=1)), problem.n


def a_spread(median, around=0.01):
    return {"q1": median * (1 - around), "median": median, "q3": median * (1 + around)}


# --- samples -------------------------------------------------------------------------------------


def test_samples_stop_when_time_is_up_but_not_before_the_least():
    taken = timing.alternate({"a": lambda: None, "b": lambda: None}, 50, seconds=0)
    assert {name: len(s) for name, s in taken.items()} == {"a": timing.LEAST, "b": timing.LEAST}
    assert len(timing.alternate({"a": lambda: None}, 7)["a"]) == 7
    assert len(timing.alternate({"a": lambda: None}, 2, seconds=0)["a"]) == 2


def test_a_slow_function_is_called_once(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "_seconds", lambda function, *_: calls.append(function) or function)
    taken = timing.alternate({"slow": 3.0, "fast": 1.0}, 6, once=2.0)
    assert taken == {"slow": [3.0], "fast": [1.0] * 6}
    assert calls.count(3.0) == 1


def test_what_was_measured_before_ctrl_c_is_kept():
    def measure(item):
        if item == "c":
            raise KeyboardInterrupt
        return item.upper()

    assert progress.collect("abcd", str, measure) == ["A", "B"]
    with pytest.raises(KeyboardInterrupt):
        progress.collect("cd", str, measure)


def test_names_are_chosen_whole_or_by_a_part():
    names = ["CNN", "SimpleCNN", "ResNet-50"]
    assert progress.matching(names, None) == names
    assert progress.matching(names, ["cnn"]) == ["CNN"]
    assert progress.matching(names, ["resnet", "simple"]) == ["SimpleCNN", "ResNet-50"]
    with pytest.raises(progress.NoSuchName, match="'VGG' is in none of CNN, SimpleCNN"):
        progress.matching(names, ["cnn", "VGG"])
    with pytest.raises(progress.NoSuchName):
        blocks.choose(["nonsense"])


# --- layers --------------------------------------------------------------------------------------


def test_squeezenet_and_mobilenet_are_the_ones_that_are_known():
    shapes = [Problem.parse(text) for text in convolutions.squeezenet()]
    model = fastconv.squeezenet1_1(layers="torch")
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [p.w_size for p in shapes] == [tuple(conv.weight.shape) for conv in convs]
    assert sum(w.numel() for w in model.parameters()) == 1_235_496
    sizes = []
    for conv in convs:
        conv.register_forward_hook(lambda _, given, y: sizes.append((*given[0].shape, *y.shape)))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224))
    assert sizes == [(*p.x_size, *p.conv_size) for p in shapes]

    depthwise = [Problem.parse(text) for text in convolutions.mobilenet_v2_depthwise()]
    assert len(depthwise) == 17 and len(set(depthwise)) == 10
    assert all(p.c == p.groups == p.k and p.r == 3 for p in depthwise)
    assert [p.c for p in depthwise if p.stride == (2, 2)] == [96, 144, 192, 576]
    assert depthwise[-1].x_size == (1, 960, 7, 7)


def test_layers_are_alone_and_distinct():
    assert len(layers.LAYERS) == len(set(layers.LAYERS)) > 60
    for network, problem in layers.LAYERS:
        assert problem.valid() and problem.n == 1 and problem.layout == "nchw"
        assert not problem.k or (problem.pool is None and not problem.relu)
        assert problem.k or network in ("MaxPool2d", "ReLU")
    counts = {name: len(layers.choose([name])) for name in layers.NETWORKS}
    assert counts["VGG-16"] == 9 and counts["ResNet-50"] == 23
    assert counts["MobileNetV2 depthwise"] == 10


@pytest.mark.parametrize("text", CONVOLUTIONS + ALONE)
def test_a_right_layer_is_timed(text):
    layer, batch = small_layer(text)
    found = layers.run_layer(layer, batch, 1)
    assert found["problem"] == str(Problem.parse(text))
    assert list(found["milliseconds"]) == ["forward", "forward+backward"]
    for times in found["milliseconds"].values():
        assert list(times) == [f"{s} {f}" for s in ("torch", "fastconv") for f in calls.FORMATS]
        assert all(0 < t["q1"] <= t["median"] <= t["q3"] for t in times.values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("text", [CONVOLUTIONS[1], *ALONE])
def test_layers_of_16_bits_are_timed_beside_torchs_float32(text, dtype):
    layer, batch = small_layer(text)
    found = layers.run_layer(layer, batch, 1, dtype)
    assert Problem.parse(found["problem"]).dtype == getattr(torch, dtype)
    for times in found["milliseconds"].values():
        sides = ("torch", "fastconv", calls.FLOAT32)
        assert list(times) == [f"{side} {name}" for side in sides for name in calls.FORMATS]
    text = layers.text(
        {"environment": environment.environment(), "dtype": dtype, "repeat": 1, "layers": [found]}
    )
    assert text.count(f"{calls.FLOAT32} ms") == 2 and f"{dtype}, medians" in text


@pytest.mark.parametrize("dtype", calls.TYPES)
def test_long_calls_are_timed_once_in_16_bits_alone(monkeypatch, dtype):
    limits = []

    def alternate(functions, repeat, **options):
        limits.append(options["once"])
        return {name: [1.0] for name in functions}

    monkeypatch.setattr(timing, "alternate", alternate)
    layer, batch = small_layer(ALONE[1])
    layers.run_layer(layer, batch, 1, dtype)
    assert all((limit == float("inf")) == (dtype == "float32") for limit in limits) and limits


def test_a_wrong_layer_of_16_bits_is_not_timed(monkeypatch):
    right = fastconv.convert

    def broken(layer):
        layer = right(copy.deepcopy(layer))
        with torch.no_grad():
            layer.weight *= 1.1
        return layer

    monkeypatch.setattr(fastconv, "convert", broken)
    monkeypatch.setattr(timing, "alternate", lambda *_, **__: pytest.fail("it was timed"))
    layer, batch = small_layer(CONVOLUTIONS[1])
    monkeypatch.setattr(layers.batch_truth, "of", lambda *_: SimpleNamespace(check=lambda *_: None))
    with pytest.raises(AssertionError, match=r"y is off by 0\.1: fastconv NCHW"):
        layers.run_layer(layer, batch, 1, "bfloat16")


def changed(result, i, change):
    return tuple(change(t) if i == j else t for j, t in enumerate(result))


def swapped(tensor):
    """Swaps two images of a batch."""
    return tensor[[1, 0, *range(2, len(tensor))]]


def one_value(tensor):
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[tensor.numel() // 2] += 0.05 * tensor.abs().max()
    return tensor


@pytest.mark.parametrize("text", CONVOLUTIONS)
@pytest.mark.parametrize("side", ["torch", "fastconv"])
def test_what_is_wrong_in_a_batch_is_noticed(text, side):
    problem = Problem.parse(text)
    data = batch_truth.draw(problem)
    truth = batch_truth.of(problem, data)
    layer = layers.sides(problem, data)[side]
    found = [t.detach() for t in calls.call(layer, data.x, data.dy, True, False)()]
    truth.check(side, *found)
    truth.check(side, found[0])
    names = ["y", "dw", *(["dbias"] if problem.bias else []), "dx"]
    for i, name in enumerate(names):
        wrong = [one_value, lambda t: t * 1.001]
        if name in ("y", "dx") and problem.n > 1:
            wrong.append(swapped)
        for change in wrong:
            with pytest.raises(AssertionError, match=f"^{name}: {side}"):
                truth.check(side, *changed(found, i, change))


@pytest.mark.parametrize("text", ALONE)
def test_a_pool_and_a_relu_are_held_to_torchs_bits(text):
    problem = Problem.parse(text)
    data = batch_truth.draw(problem)
    truth = batch_truth.of(problem, data)
    layer = layers.sides(problem, data)["fastconv"]
    found = [t.detach() for t in calls.call(layer, data.x, data.dy, True, True)()]
    truth.check("fastconv", *found)
    for i, name in enumerate(("y", "dx")):
        with pytest.raises(AssertionError, match=f"^{name}: "):
            truth.check("fastconv", *changed(found, i, one_value))


def test_the_weighted_sums_are_exact():
    problem = Problem.parse(CONVOLUTIONS[2])
    x, _, _, dy = batch_truth.draw(problem)
    weights = batch_truth.factors(problem.n)
    for images in (x, dy):
        total = torch.tensordot(weights, images.double(), 1)
        assert torch.equal(total.float().double(), total)
    assert torch.equal(dy.double(), weights.view(-1, 1, 1, 1) * dy[:1].double())
    assert len(set(weights.abs().tolist())) == problem.n


class Broken(nn.Conv2d):
    """A layer that forgets a part of its bias."""

    def forward(self, x):
        return super().forward(x) - 0.01


def test_a_wrong_layer_is_not_timed(monkeypatch):
    def sides(problem, data):
        right = layers_sides(problem, data)
        wrong = Broken(problem.c, problem.k, problem.r, *problem.conv_arguments)
        wrong.load_state_dict(right["torch"].state_dict())
        return {**right, "fastconv": wrong}

    layers_sides = layers.sides
    monkeypatch.setattr(layers, "sides", sides)
    monkeypatch.setattr(timing, "alternate", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(AssertionError, match="y: fastconv NCHW"):
        layers.run_layer(*small_layer(CONVOLUTIONS[1]), 1)


# --- networks ------------------------------------------------------------------------------------


def test_variants_run_what_they_say():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    made = {str(variant): variant.made(model) for variant in networks.variants(compiled=False)}
    assert type(made["torch eager NCHW"][0]) is nn.Conv2d
    assert "forward" in vars(made["fastconv NCHW"]) and not vars(model).get("forward")
    assert made["torch eager channels_last"][0].weight.stride()[1] == 1
    assert type(model[0]) is nn.Conv2d and model[0].weight.is_contiguous()


# --- compare -------------------------------------------------------------------------------------


def results(**times):
    """A result of `layers` with one layer; the times by variant, or their spreads."""
    spreads = {
        n.replace("_", " "): t if isinstance(t, dict) else a_spread(t) for n, t in times.items()
    }
    layer = {"network": "Net", "problem": CONVOLUTIONS[0], "milliseconds": {"forward": spreads}}
    where = {"processor": "Test", "threads": 1, "torch": "2"}
    return {"environment": where, "repeat": 1, "layers": [layer]}


def test_what_got_slower_is_told():
    old = results(torch=1.0, fastconv_NCHW=1.0, fastconv_channels=1.0)
    for new, worse, better in (
        (dict(torch=1.0, fastconv_NCHW=1.2, fastconv_channels=0.8), ["NCHW"], ["channels"]),
        (dict(torch=1.0, fastconv_NCHW=1.02, fastconv_channels=0.98), [], []),  # within spread
        (dict(torch=1.5, fastconv_NCHW=1.5, fastconv_channels=1.5), [], []),  # the machine
        (dict(torch=0.5, fastconv_NCHW=1.0, fastconv_channels=0.5), ["NCHW"], []),
    ):
        _, found = compare.changes(old, results(**new))
        assert [c.name.split()[-1] for c in found if c.worse] == worse
        assert [c.name.split()[-1] for c in found if c.apart and not c.worse] == better
        text, slower = compare.report(old, results(**new))
        assert slower == bool(worse)
        assert f"Slower (or larger) beyond their spread: {len(worse) or 'none'}." in text
    # A wide spread hides the same difference.
    wide = results(torch=1.0, fastconv_NCHW=a_spread(1.2, 0.3), fastconv_channels=1.0)
    assert not compare.report(old, wide)[1]


def test_another_machine_is_told():
    old = results(torch=1.0, fastconv=1.0)
    new = copy.deepcopy(old)
    new["environment"]["threads"] = 8
    assert "Another threads: 1, now 8." in compare.report(old, new)[0]
    assert "Nothing in them is the same." in compare.report({**old, "layers": []}, old)[0]


@pytest.mark.parametrize("file", sorted(readme_table.RESULTS.glob("*.json")), ids=lambda f: f.stem)
def test_every_committed_result_can_be_compared(file):
    if file.stem not in command.PARTS and file.stem != "blocks-64":
        return
    result = json.loads(file.read_text())
    found = compare.spreads(result)
    count = json.dumps(result).count('"median"')
    assert len(found) == count > 0  # each has a name of its own
    assert {compare._side(name) for name in found} == {"torch", "fastconv"}
    assert not compare.report(result, result)[1]


# --- the command, the picture, README ------------------------------------------------------------


@pytest.fixture
def few_layers(monkeypatch):
    small = [small_layer(text, name)[0] for text, name in zip(CONVOLUTIONS, "AABB", strict=True)]
    monkeypatch.setattr(layers, "LAYERS", small)
    monkeypatch.setattr(layers, "NETWORKS", {"A": small[:2], "B": small[2:]})


def test_the_command(few_layers, tmp_path, capsys):
    file, image = tmp_path / "layers.json", tmp_path / "layers.png"
    words = ["layers", "--repeat", "1", "--json", str(file)]
    assert main([*words, "--plot", str(image)]) == 0
    result = json.loads(file.read_text())
    assert len(result["layers"]) == 8 and {"processor", "fastconv"} <= set(result["environment"])
    printed = capsys.readouterr()
    assert printed.out.strip() == layers.text(result) and "[8/8, " in printed.err
    assert image.read_bytes().startswith(b"\x89PNG") and plot.source_of(image) == ""
    # Against itself, and against one that was a hundred times as fast.
    for layer in result["layers"]:
        for times in layer["milliseconds"].values():
            for name, spread in times.items():
                if name.startswith("fastconv"):
                    times[name] = {key: t / 100 for key, t in spread.items()}
    file.write_text(json.dumps(result))
    words = ["layers", "--repeat", "1", "--only", "A", "--batch", "1", "--compare", str(file)]
    assert main(words) == 1
    assert "Slower (or larger) beyond their spread: 8." in capsys.readouterr().out


def test_the_command_refuses_what_there_is_not(capsys):
    for words, says in (
        (["layers", "--only", "nonsense"], "'nonsense' is in none of ResNet-50"),
        (["blocks", "--only", "nonsense"], "no block 'nonsense'"),
        (["nonsense"], "invalid choice"),
        (["layers", "--repeat", "0"], "must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert says in capsys.readouterr().err


def test_files_that_will_not_do_are_told_before_anything_runs(tmp_path, monkeypatch, capsys):
    def measure(name, arguments):
        raise AssertionError(f"{name} was measured")

    monkeypatch.setattr(command, "_measure", measure)
    (tmp_path / "file").write_text("{")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "blocks.json").write_text("no JSON")
    for words, says in (
        ("blocks --json folder", "--json: folder is a folder, name a file"),
        ("blocks --json no/blocks.json", "--json: there is no folder no for blocks.json"),
        ("layers --plot folder", "--plot: folder is a folder, name a file"),
        ("blocks --compare no.json", "--compare: no.json is no file of results ("),
        ("blocks --compare folder", "--compare: folder is no file of results ("),
        ("blocks --compare file", "--compare: file is no file of results ("),
        ("all --json file", "--json: file is no folder ("),
        ("all --compare no", "--compare: there is no folder no"),
        ("all --compare folder", "--compare: folder/blocks.json is no file of results ("),
        ("all --plot folder", "--plot: folder is a folder, name a file"),
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main(words.split())
        assert stop.value.code == 2
        assert says in capsys.readouterr().err.splitlines()[-1]


def test_all_parts_one_after_another(monkeypatch, tmp_path, capsys):
    asked = {}

    def part(name):
        def run(arguments):
            asked[name] = arguments
            return results(torch=1.0, fastconv=2.0)

        return command.PARTS[name]._replace(run=run, text=lambda result: f"it is {name}")

    parts = {name: part(name) for name in command.PARTS}
    monkeypatch.setattr(command, "PARTS", parts)
    old = tmp_path / "old"
    old.mkdir()
    (old / "memory.json").write_text(json.dumps(results(torch=1.0, fastconv=1.0)))
    assert (
        main(["all", "--json", str(tmp_path / "new"), "--no-compile", "--compare", str(old)]) == 1
    )
    assert list(asked) == ["blocks", "layers", "networks", "memory", "sweep", "overhead"]
    assert all(arguments.no_compile for arguments in asked.values())
    assert (asked["sweep"].dtype, asked["sweep"].count, asked["sweep"].seed) == ("float32", 300, 1)
    assert asked["layers"].repeat == 9 and asked["networks"].only is None
    assert {f.name for f in (tmp_path / "new").iterdir()} == {f"{name}.json" for name in asked}
    out = capsys.readouterr().out
    assert "it is memory" in out and "slower than it was: memory." in out
    asked.clear()
    assert main([]) == 0 and len(asked) == 6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", calls.TYPES)
def test_a_block_by_the_command(capsys, dtype):
    words = ["blocks", "--only", "G", "--batch", "1", "--repeat", "1", "--no-compile"]
    assert main([*words, "--dtype", dtype]) == 0
    printed = capsys.readouterr().out
    assert "| Simple-3: 128->256 3x3 s2, 13x13, pool 3 s2 |" in printed
    assert (f"| {calls.FLOAT32} NCHW |" in printed) == (dtype != "float32")
    assert f"{dtype}, medians of 1" in printed


def test_readme_has_the_results_that_are_there(tmp_path, monkeypatch, few_layers):
    monkeypatch.setattr(readme_table, "RESULTS", tmp_path)
    for contents in readme_table.tables().values():
        assert set(contents.values()) <= {readme_table.NOTHING}
    assert readme_table.picture("layers", draw=False)  # of nothing, none
    file = tmp_path / "layers.json"
    result = layers.run(layers.LAYERS, [1, 4], 1)
    file.write_text(json.dumps(result))
    tables = readme_table.tables()
    text = tables[readme_table.RESULTS_PAGE]["layers"]
    picture = "![Every layer in a picture](../benchmarks/results/layers.png)"
    assert text == f"{layers.summary(result)}\n\n{picture}"
    assert "| single layers of known networks" in tables[readme_table.README]["summary"]
    assert not readme_table.picture("layers", draw=False)
    assert not readme_table.picture("layers", draw=True)
    assert readme_table.picture("layers", draw=False)
    file.write_text(json.dumps({**result, "repeat": 2}))
    assert not readme_table.picture("layers", draw=False)


def test_the_headline_has_means_and_least_ratios():
    times = [{"torch": {"median": 2.0}, "fastconv": {"median": 1.0}}]
    times += [{"torch": {"median": 4.0}, "torch b": {"median": 8.0}, "fastconv": {"median": 8.0}}]
    result = {
        "environment": environment.environment(),
        "networks": [
            {"mode": headline.TRAINING, "milliseconds": times[0]},
            {"mode": headline.TRAINING, "milliseconds": times[1]},
            {"mode": "inference", "milliseconds": {}},
        ],
    }
    lines = headline.headline([{"networks": result}]).splitlines()
    assert lines[2] == "| training steps of whole networks (eager) | 2 | **1.00x** | 0.50x |"
    assert len(lines) == 5


def test_the_headline_of_two_machines_has_columns_for_each():
    times = {"torch": {"median": 3.0}, "fastconv": {"median": 1.0}}
    one, other = environment.environment(), environment.environment()
    other["fastconv"] = {"in use": "avx9000"}
    blocks_ = [{"milliseconds": {"forward": times}}]
    machines = [
        {"blocks": {"environment": one, "blocks": blocks_}},
        {
            "layers": {
                "environment": other,
                "layers": [{"milliseconds": {"forward+backward": times}}],
            }
        },
    ]
    lines = headline.headline(machines).splitlines()
    assert lines[0].endswith("| mean, avx9000 | least, avx9000 |")
    assert lines[2] == "| fused blocks, 8 images, forward (eager) | 1 | **3.0x** | 3.00x |  |  |"
    assert lines[3].endswith(", forward + backward (eager) | 1 |  |  | **3.0x** | 3.00x |")
    assert "avx9000" in lines[-1] and table.machine(one) in lines[-1]


def test_install_is_shown_in_minutes():
    where = {"processor": "A CPU", "fastconv": {"compiler": "GNU 12.2.0"}}
    seconds = {"for CPUs": 90.0, "for CPUs and CUDA": 750.0}
    text = table.install({"environment": where, "processor seconds": seconds})
    assert text.splitlines()[2:] == [
        "| for CPUs | 1.5 min |",
        "| for CPUs and CUDA | 12.5 min |",
        "",
        "A CPU, GNU 12.2.0.",
    ]


def test_readme_has_a_place_for_every_table():
    for file, contents in readme_table.tables().items():
        for name, content in contents.items():
            assert content in readme_table.fill(file.read_text(), name, content)


def test_every_part_is_in_the_docs():
    docs = (Path(readme_table.ROOT) / "docs" / "benchmarks.md").read_text()
    for name in command.PARTS:
        assert f"`{name}`" in docs
