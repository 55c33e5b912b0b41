"""Trainings fitted to a machine: what batch normalization extends over, changed presets, memory, trials."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.backends import cudnn
from torch.utils.flop_counter import FlopCounterMode

import agmm
import run_all
from agmm import cli, networks
from agmm.data import sets
from agmm.host import machine
from agmm.papers import tables
from agmm.training import batches, loop, measure, presets, sweep, train, trial, weights
from agmm.training.presets import PRESETS
from agmm.training.result import load_history, load_result
from agmm.training.where import at
from tests import layouts
from tests.helpers import ROOT, build, one_sentence, random_images, run_notebook, skeleton, train_in_two_processes
from tests.test_tables import complete

SMOKE, PAPER = PRESETS["smoke"], PRESETS["paper"]
RUN = replace(SMOKE.at("points", "AGMM", init="scratch"), epochs=2, warmup=2, microbatch=4, norm_scope="effective")


def learned(images: torch.Tensor, distributed: bool = False) -> dict[str, torch.Tensor]:
    """Return the gradients and the statistics of a network after two steps, in double precision."""
    net = build("small").double().train()
    module = loop._distributed(net, RUN) if distributed else net
    for part in images.chunk(2, dim=-1):
        module(part)[1].square().mean().backward()
    statistics = {name: value for name, value in net.named_buffers() if "running" in name}
    return {name: value.grad for name, value in net.named_parameters()} | statistics


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(learned(random_images(8, 3, 33, 66).double().chunk(2)[rank], True), f"{folder}/{rank}")
    dist.destroy_process_group()


def test_two_processes_normalize_as_torch_does_on_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    whole = learned(random_images(8, 3, 33, 66).double())
    for rank in range(2):
        found = torch.load(tmp_path / str(rank))
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, msg=name)


def test_two_processes_train_a_run_as_one_does(tmp_path: Path) -> None:
    """Normalized apart, the first losses differ by more than fifty times as much."""
    train_in_two_processes(RUN, tmp_path)
    single = agmm.run(RUN, results=tmp_path / "single", device="cpu")
    ours, theirs = load_history(RUN, tmp_path), load_history(RUN, tmp_path / "single")
    for term in ("loss", "seg", "self", "spar", "con", "absent"):
        assert ours[term].iloc[0] == pytest.approx(theirs[term].iloc[0], rel=1e-4), term
    result = load_result(RUN, tmp_path)
    assert result.details["normalized_images"] == single.details["normalized_images"] == RUN.batch_size
    assert (result.details["processes"], single.details["processes"]) == ("2 processes", "1 process")
    apart = agmm.run(replace(RUN, norm_scope="microbatch"), results=tmp_path / "single", device="cpu")
    other = load_history(replace(RUN, norm_scope="microbatch"), tmp_path / "single")
    assert abs(other["loss"].iloc[0] / theirs["loss"].iloc[0] - 1) > 5e-3
    assert apart.details["normalized_images"] == 4


def test_the_whole_batch_passes_the_network_together(tmp_path: Path) -> None:
    """Its statistics are those of torch on the joined images, the loss is the mean over microbatches."""
    net, objective = networks.build("small", 7), agmm.training.run.build_objective("AGMM", 7, **dict(RUN.options))
    images, labels = torch.rand(16, 3, 64, 64), torch.randint(0, 7, (16, 64, 64))
    parts = [slice(i, i + 4) for i in range(0, 16, 4)]
    classes = torch.ones(16, 7, dtype=torch.bool)
    micros = [batches.Batch(images[p], labels[p], classes[p], None) for p in parts]
    output = train._loss(RUN, objective, torch.device("cpu"), net, micros)
    features, logits = net(images)
    expected = [objective(features[p], logits[p], labels[p], classes[p]).loss for p in parts]
    torch.testing.assert_close(output.loss, torch.stack(expected).mean())


def test_a_resume_by_other_processes_is_recorded() -> None:
    progress = loop.Progress(epoch=3, processes={0: 4})
    assert loop._count_processes(progress) == "4 processes, 1 process from epoch 4"
    assert loop._count_processes(progress) == "4 processes, 1 process from epoch 4"


def test_networks_without_batch_normalization_say_so() -> None:
    run = PAPER.at("points", network="vit")
    assert train.normalized_images(run, skeleton("vit_base", 21)) == 0
    assert train.normalized_images(replace(RUN, norm_scope="microbatch"), skeleton("small")) == 4


def test_the_paper_normalizes_over_its_batches() -> None:
    """With ResNets; of image tags, a microbatch of which passes the network alone, the microbatch is the batch."""
    for name in ("paper", "paper_official"):
        for run in tables.needed(tables.TABLES, name, 1):
            if run.network.startswith("resnet"):
                assert run.norm_scope == "effective", run
                assert not run.from_tags or run.microbatch == run.batch_size, run


def test_tags_are_refused_where_they_would_normalize_less(tmp_path: Path) -> None:
    run = replace(SMOKE.at("tags", init="scratch"), microbatch=4, norm_scope="effective")
    with one_sentence(ValueError, "each process takes one microbatch: start torchrun with 4 processes"):
        agmm.run(run, results=tmp_path, device="cpu")


# --- Changed presets --------------------------------------------------------------------------------------------------


def test_changes_hold_for_all_runs_and_are_part_of_their_names() -> None:
    name = "paper+microbatch6+norm_microbatch+bfloat16+compiled+simulated"
    changed, plain = (tables.needed(["agmm_table1"], one, 1) for one in (name, "paper"))
    assert len(changed) == len(plain)
    assert not {run.id for run in changed} & {run.id for run in plain}
    for run in changed:
        assert (run.preset, run.microbatch, run.norm_scope) == (name, 4, "microbatch")  # the largest divisor of 64
        assert (run.precision, run.compiled) == ("bfloat16", True)
        assert run.labels == "full" or dict(run.label_options)["source"] == "simulated"
        assert run.folder("results").parts[1] == name


@pytest.mark.parametrize(
    "name", ["paper+bfloat17", "paper+bfloat16+microbatch8", "paper+microbatch8+microbatch4", "paper+"]
)
def test_changes_of_other_words_or_order_are_refused(name: str) -> None:
    with one_sentence(ValueError, "the preset paper is changed by words like microbatch.*, in this order, not by"):
        tables.preset(name)


def test_options_compose_the_name_and_replace_its_words() -> None:
    words = ["--preset", "paper+microbatch8+compiled", "--precision", "bfloat16", "--microbatch", "4", "--only", "spml"]
    args = run_all.parser().parse_args([*words, "--labels", "simulated"])
    assert cli.changed_preset(args) == "paper+microbatch4+bfloat16+compiled+simulated"
    run = presets.named("quick+microbatch8").at("points")  # normalizes over as many images as before
    assert (run.batch_size, run.microbatch, run.norm_scope) == (16, 8, "effective")
    assert presets.named("quick+microbatch16").at("points").norm_scope == "microbatch"


def test_processes_that_cannot_share_a_step_take_smaller_microbatches(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = cli.find("O005", "paper")
    for world, microbatch in ((4, 16), (8, 8), (64, 1)):
        monkeypatch.setattr(os, "environ", os.environ | {"WORLD_SIZE": str(world), "RANK": "0"})
        shared = cli._shared(run)
        assert (shared.microbatch, shared.norm_scope) == (microbatch, "effective")
        assert shared.preset == ("paper" if world == 4 else f"paper+microbatch{microbatch}")
    assert "8 processes take 8 images each: this is a run of the preset paper+microbatch8" in capfd.readouterr().out
    extra = next(
        run for run in tables.needed(["agmm_absent"], "paper", 1) if dict(run.options).get("variant") == "paper"
    )
    shared = replace(cli._shared(extra), preset=extra.preset, microbatch=extra.microbatch)
    assert shared == extra
    monkeypatch.setattr(os, "environ", os.environ | {"WORLD_SIZE": "3"})
    with one_sentence(ValueError, "3 processes cannot share a batch of 64; start torchrun with a divisor of 64"):
        cli._shared(run)


# --- Memory and trials ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "options"),
    [
        ("small", 33, {}),
        ("resnet50", 65, {"multi_grid": (2, 2, 4)}),
    ],
)
def test_saved_bytes_are_those_that_a_step_holds(name: str, side: int, options: dict) -> None:
    """Against the storages that autograd saves in a step that is computed."""
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.data_ptr()] = tensor
        return tensor

    net = networks.build(name, 5, **options).train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(torch.rand(2, 3, side, side))
    own = {value.data_ptr() for value in (*net.parameters(), *net.buffers())}
    expected = sum(tensor.untyped_storage().nbytes() for where, tensor in held.items() if where not in own) / 2
    assert networks.saved_bytes(skeleton(name, 5, **options), side) == pytest.approx(expected, rel=0.02)


def test_a_step_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on the papers' networks: 0.81 GiB an image of VOC, 2.69 GiB an image of Cityscapes."""
    device, run = torch.device("cpu"), PAPER.at("points")
    for kind, gigabytes in (("points", 0.81 * 64), ("clicks20", 2.69 * PAPER.at("clicks20").batch_size)):
        for free, fits in ((1.02 * gigabytes, True), (0.98 * gigabytes, False)):
            monkeypatch.setattr(machine, "free_memory", lambda _, free=free: free * 2**30)
            if fits:
                train.check_memory(PAPER.at(kind), 21, device)
            else:
                with one_sentence(ValueError, "start more processes with torchrun, choose --precision bfloat16"):
                    train.check_memory(PAPER.at(kind), 21, device)
    monkeypatch.setattr(machine, "free_memory", lambda _: 14 * 2**30)
    train.check_memory(replace(run, norm_scope="microbatch"), 21, device)
    with one_sentence(ValueError, "about 26 GiB of 64 images of 321 pixels, 14 GiB are free"):
        train.check_memory(replace(run, precision="bfloat16"), 21, device)


def test_a_trial_says_what_runs_cost_and_keeps_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A pretraining, SPML that starts from it, and its classifier, which learns from that embedding."""
    argv = ["--preset", "smoke", "--only", "spml_figure10", "--try", "2", "--results", str(tmp_path), "--device", "cpu"]
    assert run_all.main(argv) == 0
    lines = capfd.readouterr().out.splitlines()
    runs = tables.needed(["spml_figure10"], "smoke", 1)
    tried = [line for line in lines if line.startswith("[")]
    assert len(tried) == len(runs)
    assert all("s a step" in line and "GiB at most" in line for line in tried)
    assert lines[-1].endswith("nothing was kept")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "run",
    [
        SMOKE.at("points", init="scratch").second_stage(),
        SMOKE.at("cam", init="scratch"),
        SMOKE.at("tags", "AGMMpp", network="vit", init="scratch"),
        SMOKE.at("points", init="scratch").tested(crf="deeplab"),
    ],
    ids=lambda run: run.labels,
)
def test_what_other_runs_leave_is_stood_in_for(run: agmm.Run, tmp_path: Path) -> None:
    found = trial.attempt(run, at(tmp_path), 3)
    assert (found.step > 0) == (run.trained is None)
    assert 0 < found.test < found.hours * 3600
    assert not list(tmp_path.iterdir())


def test_a_trial_of_a_run_that_fails_says_so_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = cli.find("O001", "voc_animals")
    lines: list[str] = []
    assert trial.attempt_all([run], at(tmp_path, tmp_path), 1, lines.append) == 1
    assert "failed: PASCAL VOC, animals: no folder VOCdevkit/VOC2012" in lines[0]
    assert lines[1] == "1 runs: 0.0 hours one after the other and 1 that failed; nothing was kept"


# --- Weights to start from --------------------------------------------------------------------------------------------


def state_of(network: str) -> dict[str, torch.Tensor]:
    """A state dict in the form of PyTorch-Encoding and torchvision: names of the backbone, and a classifier."""
    state = {f"module.{name}": value for name, value in build(network, 21).backbone.state_dict().items()}
    return state | {"module.fc.weight": torch.zeros(1000, 2048)}


def test_runs_start_from_a_file_and_say_so(tmp_path: Path) -> None:
    torch.save({"state_dict": state_of("resnet50")}, tmp_path / "resnet50.pth")
    word = weights.keep_init(tmp_path / "resnet50.pth", tmp_path)
    digest = hashlib.sha256((tmp_path / "resnet50.pth").read_bytes()).hexdigest()
    assert word == f"resnet50-{digest[:10]}"
    preset = presets.named(f"paper+bfloat16+{word}")
    run = preset.at("clicks20")
    assert (run.init_weights, preset.at("points").init_weights) == (digest[:10], "")  # the latter is a ResNet-101
    net = weights.build_network(run, 19)  # fetches nothing: there is no network here
    weights.load_init(net, run, tmp_path)
    assert net.provenance == f"resnet50, weights of resnet50.pth, sha256 {digest}"
    for name, value in build("resnet50", 21).backbone.state_dict().items():
        assert torch.equal(net.backbone.state_dict()[name], value), name
    (tmp_path / f"init-{digest[:10]}.safetensors").unlink()
    with one_sentence(ValueError, "is missing, from which .* starts; name its file with --init-weights again"):
        weights.load_init(net, run, tmp_path)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state, file = state_of("resnet50"), tmp_path / "file.pth"
    del state["module.layer3.1.conv2.weight"]
    state["module.conv1.0.weight"] = torch.zeros(64, 3, 7, 7)  # a stem that is not deep
    torch.save(state, file)
    with one_sentence(ValueError, "file.pth lacks 2 tensors of resnet50's backbone, .* conv1.0.weight first; give"):
        weights.keep_init(file, tmp_path)
    file.write_bytes(b"no weights")
    with one_sentence(ValueError, "file.pth cannot be read as weights .*; get it again"):
        weights.keep_init(file, tmp_path)


def test_other_weights_than_at_the_first_use_are_refused(tmp_path: Path) -> None:
    weights.remember("timm resnet50s, deep stem, sha256 " + "a" * 64 + ", 64-d embeddings", tmp_path)
    weights.remember("timm resnet50s, deep stem, sha256 " + "a" * 64, tmp_path)
    weights.remember("timm resnet50s, deep stem, random weights", tmp_path)
    assert json.loads((tmp_path / "weights.json").read_text()) == {"timm resnet50s, deep stem": "a" * 64}
    with one_sentence(
        ValueError, r"sha256 bbbbbbbbbb…, and .*weights.json knows aaaaaaaaaa… since .*; bring those back"
    ):
        weights.remember("timm resnet50s, deep stem, sha256 " + "b" * 64, tmp_path)


def test_a_finished_run_opens_without_its_imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(PAPER.at("clicks20"), network="resnet50", network_options=())
    run.folder(tmp_path).mkdir(parents=True)
    weights.save_weights(build("resnet50", 19), run.folder(tmp_path) / "model.safetensors", run.id)
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained, **more: create(name, **more) if not pretrained else pytest.fail("fetched"),
    )
    net = weights.load_network(run, tmp_path, 19, torch.device("cpu"))
    assert torch.equal(net.backbone.conv1[0].weight, build("resnet50", 19).backbone.conv1[0].weight)


@pytest.mark.parametrize("embedding", [0, 64])
def test_weights_that_follow_freeze_what_imagenet_s_do(embedding: int) -> None:
    frozen = [
        [
            name
            for name, value in networks.build(name, 7, init=init, embedding=embedding).named_parameters()
            if not value.requires_grad
        ]
        for name, init in (("lite0", "imagenet"), ("lite0", "later"), ("resnet50", "later"), ("resnet50", "scratch"))
    ]
    assert frozen[0] == frozen[1]
    assert bool(frozen[2]) == bool(embedding)
    assert not frozen[3]
    assert networks.build("lite0", 7, init="later").backbone.frozen_statistics


def test_weights_are_asked_for_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with one_sentence(
        RuntimeError, "fill timm's cache by `agmm download weights` where it is online, give a file with --in"
    ):
        # The classifier starts from the weights of the embedding, which need those of ImageNet.
        weights.check([PAPER.at("scribbles", "SPML"), PAPER.spml("scribbles")], tmp_path)


def test_presets_for_gpus_do_not_begin_on_a_cpu_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("paper", "paper_official+bfloat16", "camvid_r50"):
        run = presets.named(name).at("full" if name != "camvid_r50" else "points")
        with one_sentence(
            ValueError, "is for GPUs .* and torch sees none; choose another, or --device cpu to train here"
        ):
            train.check_device(run, "auto")
        train.check_device(run, "cpu")
    train.check_device(RUN, "auto")


def test_long_epochs_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAY_EVERY", 0.0)
    agmm.run(replace(RUN, norm_scope="microbatch"), results=tmp_path, device="cpu")
    log = (replace(RUN, norm_scope="microbatch").folder(tmp_path) / "log.txt").read_text()
    assert re.search(r"epoch 1 of 2, step \d of \d: loss [\d.]+, [\d.e+]+ images/s, ETA \d+ s\n", log)
    assert re.search(r"  epoch 1 .*  p_miou .*, ETA \d+ s\n", log)
    assert re.search(r"labels: .* of shapes: simulated from dense masks and objects, seed = the run's\n", log)


def test_the_notebook_says_what_a_table_costs(tmp_path: Path) -> None:
    run_notebook(ROOT / "notebooks/explore/paper_scale.ipynb", {"table": "agmm_figure2", "results": str(tmp_path)})
    costs = tables.costs("agmm_figure2", "paper")
    assert costs["GiB"].tolist() == [51.5, 51.5]
    assert (costs["hours"] > 6).all()


def test_plans_say_where_labels_come_from_and_what_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layouts.agmm_voc(tmp_path / "voc")
    plan = ["--only", "agmm_figure2", "--dry-run", "--results", str(tmp_path / "results"), "--data-root"]
    with pytest.warns(UserWarning, match="images, not"):
        assert run_all.main(["--preset", "paper", *plan, str(tmp_path)]) == 0
    out = capfd.readouterr().out
    assert "labels: points of PASCAL VOC: published: points published by the authors of AGMM (point/)" in out
    for preset in ("quick", "paper"):
        assert run_all.main(["--preset", preset, *plan, str(tmp_path / "not" / "there")]) == 2
        assert f"there is no folder {tmp_path}/not/there; --data-root is that" in capfd.readouterr().err


def test_forecasts_hold_what_is_not_a_step() -> None:
    """Trees on the CPU, predictions for a second stage, CRFs; and Cityscapes has two batches."""
    # Steps, images of a step, and side of the grid, a fourth of the crop.
    steps = {"points": (13_200, 64, 81), "clicks20": (44_400, 16, 193), "blocks10": (150_297, 16, 129)}
    for labels, (count, images, side) in steps.items():
        plain, trees = (sweep.estimate(PAPER.at(labels, name), {}) for name in ("Baseline", "TreeEnergy"))
        assert trees - plain == pytest.approx(0.6 * count * images * side**2 / (64 * 81**2), rel=0.02), labels
    voc, coco = ((375, 500), 10_582, 1_449), ((480, 640), 82_783, 40_137)
    for labels, (size, training, test) in (("points", voc), ("coco_tags", coco)):
        for network, chosen in PAPER.networks.items():
            run = PAPER.at(labels, network=network)
            net = skeleton(run.network, len(sets.class_names(run.dataset)))
            views = [[int(side * scale) // 16 * 16 for side in size] for scale in run.scales]
            image = sum(2 * _operations(net, view) for view in views) / 23e12
            plain = PAPER.seconds.get(f"{run.dataset}, {run.network}", PAPER.seconds[run.dataset])
            assert sweep.estimate(run.second_stage(), {}) - plain == pytest.approx(training * image, rel=0.05)
            assert sweep.estimate(run.tested(**chosen.refined), {}) == pytest.approx(test * (image + 0.2), rel=0.05)
    assert [preset.at("clicks20").batch_size for preset in (PAPER, PRESETS["paper_official"])] == [16, 32]


def _operations(net: torch.nn.Module, size: list[int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        net.eval()(torch.empty(1, 3, *size))
    return counter.get_total_flops()


def test_what_was_measured_on_one_data_set_says_nothing_of_another() -> None:
    """Trainings of the paper from image tags have the same epochs and networks on VOC and on COCO."""
    for run, other in (
        [PAPER.at(labels, network="vit") for labels in ("tags", "coco_tags")],
        [PAPER.at(labels, network="vit").tested(crf="toco") for labels in ("tags", "coco_tags")],
        [PAPER.at("points"), PAPER.at("points", "TreeEnergy")],
    ):
        assert sweep.estimate(other, {sweep.work(run): [1.0]}) == sweep.estimate(other, {})
    quick = PRESETS["quick"]
    for run in (quick.at("points", "TreeEnergy"), quick.at("points").second_stage(), quick.at("clicks20")):
        assert sweep.estimate(run, {sweep.work(quick.at("points")): [90.0]}) == 90


def test_a_sweep_counts_what_its_running_trainings_still_take(tmp_path: Path) -> None:
    said: list[str] = []
    done, runs = replace(RUN, seed=3), [replace(RUN, seed=seed) for seed in range(3)]
    going = sweep._Sweep(runs[2:], tmp_path, said.append)
    complete(tmp_path, done, 50.0)
    going.past[sweep.work(done)] = [3600.0]
    going.running = {Future(): (run, 0) for run in runs[:2]}
    runs[0].folder(tmp_path).mkdir(parents=True)
    etas = {1: ", ETA 2.0 h", 2: ", ETA 6 min", 3: ""}
    lines = [f"2026-01-01 00:00:00  epoch {n}  loss 1{eta}\n" for n, eta in etas.items()]
    (runs[0].folder(tmp_path) / "log.txt").write_text("".join(lines))
    going._report_success(done, 1)
    # Two whose progress is not known, and six minutes.
    whole = sweep.estimate(runs[1], going.past)
    assert said[-1].endswith(f"ETA {machine.duration(2 * whole + 360)}")


def test_kernels_are_chosen_for_crops_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the authors; images that are tested have too many sizes."""
    seen: list[bool] = []

    def recorded(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        seen.append(cudnn.benchmark)
        return function(*args, **more)

    monkeypatch.setattr(train, "_loss", partial(recorded, train._loss))
    monkeypatch.setattr(measure, "confusion", partial(recorded, measure.confusion))
    agmm.run(replace(RUN, epochs=1, warmup=1), results=tmp_path, device="cpu")
    assert seen == [True, True, False]


def test_a_sweep_tells_the_first_forecast_of_a_training(tmp_path: Path) -> None:
    said: list[str] = []
    going = sweep._Sweep([RUN], tmp_path, said.append)
    going.running[Future()] = RUN, 0
    RUN.folder(tmp_path).mkdir(parents=True)
    for line in ("AGMM on points", "epoch 1 of 2, step 20 of 90: loss 1.2, ETA 3.1 h", "epoch 2  loss 1, ETA 2 h"):
        (RUN.folder(tmp_path) / "log.txt").write_text(f"2026-01-01 00:00:00  {line}\n")
        going.tell_forecasts()
    assert said == [f"{sweep.describe(RUN)}: epoch 1 of 2, step 20 of 90: loss 1.2, ETA 3.1 h"]
