"""Images of one's own: from folders to masks by the command line, and one sentence for whatever is wrong."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import agmm
from agmm import cli, evaluation, networks, own
from agmm.codes import UNLABELED, VOID
from agmm.data import sets, user_folder
from agmm.data.split import Split
from agmm.data.synthetic import shapes
from agmm.networks import backbones
from agmm.networks.backbones import lite0_file
from agmm.own import prediction, training
from agmm.training import loop
from tests.helpers import ROOT, interruption, one_sentence, run_notebook, same_weights
from tests.layouts import save_index
from tests.test_annotations import folders, image_file, names_file, write

NAMES = ("background", "cat", "dog")


@pytest.fixture
def user(tmp_path):
    """Six images of three sizes with two clicks each, as a CSV file, and dense truth of the last two."""
    for number in range(6):
        size = 40 + 8 * (number % 3), 48
        image_file(tmp_path / "images", f"im{number}", size)
        if number > 3:
            save_index(tmp_path / "truth" / f"im{number}.png", np.random.default_rng(0).integers(0, 3, size))
    clicks = {f"im{number}": [((5, 5), 0), ((20 + number, 30), 1 + number % 2)] for number in range(6)}
    write("csv", tmp_path / "labels", clicks, NAMES)
    names_file(tmp_path, NAMES)
    return tmp_path


def given(user, **changes):
    paths = {"images": user / "images", "labels": user / "labels", "classes": user / "names.txt"} | changes
    return [text for name, value in paths.items() for text in (f"--{name}", str(value))]


SHORT = own.Options(side=48, steps=4, network="small")


def train(user, *more, **changes):
    """Exit code of a short training by the command line."""
    options = given(user, **{"out": user / "model"} | changes)
    return cli.main(["train", *options, "--side", "48", "--steps", "4", "--network", "small", "--device", "cpu", *more])


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("agmm.own.options.EPOCH_STEPS", 2)


def test_train_and_predict_by_the_command_line(user, short, capsys):
    out, truth = user / "model", ["--truth", str(user / "truth")]
    assert train(user, *truth, "--complete") == 0
    assert "mean IoU" in capsys.readouterr().out
    files = {"training", "model.safetensors", "model.json", "report.csv", "log.txt"}
    assert {path.name for path in out.iterdir()} == files
    report = pd.read_csv(out / "report.csv")
    assert report["class"].tolist() == [*NAMES, "mean"]
    assert report["measured_on"].unique().tolist() == ["1 images, dense masks"]
    predicted = user / "predicted"
    options = ["--model", str(out), "--images", str(user / "images"), "--out", str(predicted), "--device", "cpu"]
    assert cli.main(["predict", *options, *truth]) == 0
    for number in range(6):
        image, mask = (Image.open(user / part / f"im{number}.png") for part in ("images", "predicted/masks"))
        assert (mask.mode, mask.size) == ("P", image.size)
        assert np.asarray(mask).max() < len(NAMES)
        assert Image.open(predicted / "overlays" / f"im{number}.jpg").size == image.size
    legend = pd.read_csv(predicted / "classes.csv")
    assert legend["class"].tolist() == list(NAMES)
    assert legend["color"].tolist() == ["#000000", "#800000", "#008000"]
    (validated,) = user_folder.read_prepared(out / "training" / "data").validation
    paths = (user / part / f"{validated}.png" for part in ("truth", "predicted/masks"))
    cats, said = (np.asarray(Image.open(path)) == 1 for path in paths)
    iou = pd.read_csv(predicted / "report.csv")["iou"]
    assert iou[1] == pytest.approx(100 * (cats & said).sum() / (cats | said).sum())


def test_the_same_call_loads_and_further_labels_continue(user, short, caplog, monkeypatch):
    caplog.set_level("INFO", "agmm")
    begins, fit = [], loop.fit

    def recorded(run, net, *others):
        begins.append({name: value.clone() for name, value in net.state_dict().items()})
        return fit(run, net, *others)

    monkeypatch.setattr(loop, "fit", recorded)
    first, again = (own.train(*folders(user), user / "model", SHORT, device="cpu") for _ in range(2))
    assert (again.run_id, again.seconds) == (first.run_id, first.seconds)
    start = load_file(user / "model" / "model.safetensors")
    with open(user / "labels" / "clicks.csv", "a") as file:
        file.write("dog,9,9,im0.png\n")
    second = own.train(*folders(user), user / "model", SHORT, device="cpu")
    assert "going on from the weights of the earlier training" in caplog.text
    assert second.run_id not in (first.run_id, own.train(*folders(user), user / "new", SHORT, device="cpu").run_id)
    assert own.train(*folders(user), user / "model", SHORT, device="cpu").run_id == second.run_id
    assert [same_weights(begin, start) for begin in begins] == [False, True, False]
    learned = {name: set(json.loads((user / name / "model.json").read_text())["images"]) for name in ("model", "new")}
    assert learned["model"] >= learned["new"]


def test_cross_validation_measures_every_label_by_a_model_that_has_not_seen_its_image(user, short):
    options = replace(SHORT, validate="cross")
    result = own.train(*folders(user), user / "model", options, device="cpu")
    table = pd.read_csv(user / "model" / "report.csv")
    assert table["clicks"].tolist() == [6, 3, 3, 12]
    assert re.fullmatch(r"\d+ % of 12 clicks right \(6 images; clicks, not outlines\)", result.details["figure"])
    folds = sorted((user / "model" / "training" / "data").glob("fold*"))
    left_out = []
    for data in map(user_folder.read_prepared, folds):
        assert not set(data.validation) & set(data.train)
        assert len(data.validation) + len(data.train) == 6
        left_out += data.validation
    assert (len(folds), sorted(left_out)) == (5, [f"im{number}" for number in range(6)])
    with one_sentence(ValueError, "--validate cross"):
        own.train(*folders(user), user / "other", options, truth=user / "truth", device="cpu")


def test_labels_are_right_where_most_of_their_pixels_are(monkeypatch):
    truth = np.full((2, 9, 9), UNLABELED, np.uint8)
    truth[0, :2, :2], truth[0, 5:8, 5:8], truth[1, 4], truth[1, :3, :3] = 0, 1, 1, VOID
    said = np.zeros((9, 9), np.uint8)
    said[5:7, 5:8] = said[4, :4] = 1  # 6 of 9 pixels of the one, 4 of 9 of the other
    monkeypatch.setattr(prediction, "mask", lambda model, image: said)
    split = Split("own", ("a", "b", "c"), ("x", "y"), np.zeros((2, 9, 9, 3), np.uint8), truth, None)
    table, figure = prediction.labels_right([(None, split)], split.class_names, "labels")
    np.testing.assert_array_equal(table["right"], [100, 50, np.nan, 200 / 3])
    assert figure == "67 % of 3 labels right (2 images; labels, not outlines)"


def test_no_figure_from_images_that_were_learned_from(user, short, capsys):
    (user / "labels" / "clicks.csv").write_text("image,x,y,class\nim0.png,5,5,cat\nim0.png,30,20,dog\n")
    assert train(user) == 0
    assert capsys.readouterr().out.startswith("no figure, as all labeled images were learned from")


def test_truth_of_images_that_were_learned_from_is_told_apart(user, short):
    own.train(*folders(user), user / "model", SHORT, device="cpu")
    learned = set(json.loads((user / "model" / "training" / "data" / "data.json").read_text())["train"])
    for number in range(4):
        save_index(user / "truth" / f"im{number}.png", np.zeros((40 + 8 * (number % 3), 48)))
    table = own.predict(user / "model", user / "images", user / "out", truth=user / "truth", device="cpu")
    numbers = [int(text.split()[0]) for text in table["measured_on"].unique()]
    assert numbers == [6 - len(learned), len(learned)]
    assert "learned from" in table["measured_on"].iloc[-1]


def test_check_counts_labels_and_lists_all_problems(user, capsys):
    assert cli.main(["check", *given(user)]) == 0
    said = capsys.readouterr().out
    assert "6 images, 6 with labels, 0 with dense masks" in said
    assert "dog (code 2): 36 labeled pixels in 3 images" in said
    assert "all is well" in said
    for stem in ("im0", "im1", "im2"):
        (user / "images" / f"{stem}.png").write_bytes(b"no image")
    assert train(user) == 2
    assert "and 2 more problems, which `agmm check` lists" in capsys.readouterr().err
    (user / "labels" / "zz.png").write_bytes(b"")
    assert cli.main(["check", *given(user)]) == 2
    said = capsys.readouterr().out
    assert "im0.png: cannot be decoded" in said
    assert "zz.png: no image has this name; add the image or remove the mask" in said
    assert "4 problems found" in said


TAG = "<annotations><image name='im0.png'><tag label='cat'/></image></annotations>"


def text(name, content):
    return lambda user: (user / name).write_text(content)


def masked(user, mask):
    (user / "labels" / "clicks.csv").unlink()
    save_index(user / "labels" / "im0.png", mask)


def cut(user):
    path = user / "images" / "im1.png"
    path.write_bytes(path.read_bytes()[:500])


SPOILED = {
    "empty folder": (lambda u: [p.unlink() for p in (u / "images").iterdir()], "images: holds no image"),
    "truncated image": (cut, "im1.png: cannot be decoded"),
    "two images": (lambda u: image_file(u / "images", "im1", suffix=".jpg"), "im1.png: a second image beside im1.jpg"),
    "missing image": (lambda u: (u / "images/im1.png").unlink(), "clicks.csv: labels the image 'im1.png', which"),
    "no labels": (lambda u: (u / "labels/clicks.csv").unlink(), "labels: labels no image of the folder"),
    "mask's size": (lambda u: masked(u, np.zeros((5, 6))), "im0.png is for 6 x 5 pixels, its image has"),
    "mask's code": (lambda u: masked(u, np.full((40, 48), 3)), "im0.png: holds code 3; masks hold 0 … 2"),
    "mask's colors": (lambda u: masked(u, np.zeros((40, 48, 3))), "im0.png holds colors"),
    "empty masks": (lambda u: masked(u, np.full((40, 48), UNLABELED)), "no image has a labeled pixel"),
    "labeled twice": (lambda u: save_index(u / "labels/im0.png", np.zeros((40, 48))), "im0.png: its image is also in"),
    "names": (text("names.txt", "cat\ncat\n"), "names.txt: names 'cat' twice; write 2 to 254"),
    "unknown class": (text("names.txt", "cat\ndog"), "the class 'background' is not among"),
    "outside": (
        text("labels/clicks.csv", "image,x,y,class\nim0,99,3,cat\n"),
        "clicks.csv: a point at x 99, y 3 lies outside the image of 48 x 40 pixels",
    ),
    "other image's size": (
        lambda u: write("labelme", u / "labels", {"im0": [((1, 1), 0)]}, NAMES, size=(7, 8)),
        "is for an image of 8 x 7 pixels, but it has 48 x 40",
    ),
    "tags": (
        lambda u: (u / "labels/clicks.csv").rename(u / "labels/a.xml").write_text(TAG),
        "holds nothing but tags of whole images",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_mistakes_end_in_one_sentence_and_leave_nothing(user, case, capsys):
    spoil, said = SPOILED[case]
    spoil(user)
    before = {path.name for path in user.iterdir()}
    assert train(user) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("agmm train: ")
    assert error.count("\n") == 1
    assert {path.name for path in user.iterdir()} == before
    assert cli.main(["check", *given(user)]) == 2
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("option", ["images", "labels", "classes", "truth"])
def test_folders_that_are_not_there(user, option, capsys):
    assert train(user, **{option: user / "nowhere"}) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "predict"])
def test_folders_with_other_files_are_left_alone(user, command, capsys):
    """Whoever names the folder of the images, or one with masks of their own, loses nothing."""
    (user / "masks").mkdir()
    options = given(user) if command == "train" else ["--model", "m", "--images", str(user / "images")]
    before = {path.name for path in user.iterdir()}
    assert cli.main([command, *options, "--out", str(user)]) == 2
    assert "holds files that would be mixed with new ones; name a new folder" in capsys.readouterr().err
    assert {path.name for path in user.iterdir()} == before


def test_bad_models(user, short, capsys):
    options = ["--model", str(user / "model"), "--images", str(user / "images"), "--out", str(user / "out")]
    assert cli.main(["predict", *options]) == 2
    assert "no trained model, model.json is missing" in capsys.readouterr().err
    own.train(*folders(user), user / "model", SHORT, device="cpu")
    (user / "images" / "im5.png").write_text("x")
    assert cli.main(["predict", *options]) == 2
    assert "im5.png: cannot be decoded" in capsys.readouterr().err
    assert not (user / "out").exists()
    (user / "model" / "model.safetensors").write_bytes(b"x")
    assert cli.main(["predict", *options]) == 2
    assert "the model cannot be read" in capsys.readouterr().err


def describe(data, **options):
    return own.describe(data, own.Options(**options).on(torch.device("cpu")))


def prepare(user, **options):
    found = user_folder.survey(*folders(user), options.pop("truth", None))
    return user_folder.prepare(found, user / "prepared", side=options.pop("side", 48), **options)


def test_validation_images_are_the_same_and_never_the_last_of_a_class(user):
    about = prepare(user, validation=0.5)
    assert len(about.validation) == 3
    assert not set(about.validation) & set(about.train)
    assert {code for named in about.train.values() for code in named} == {0, 1, 2}
    (user / "images" / "im9.png").write_bytes((user / "images" / "im0.png").read_bytes())
    with open(user / "labels" / "clicks.csv", "a") as file:
        file.write("dog,9,9,im9.png\n")
    training.replace_folder(user / "prepared", user / "old")
    more = prepare(user, validation=0.5)
    assert more.digest != about.digest
    assert len(set(more.validation) & set(about.validation)) >= 2


def test_images_with_nothing_but_truth_are_validated_on(user):
    clicks = {f"im{number}": [((5, 5), 0), ((20, 30), 1 + number % 2)] for number in range(5)}
    write("csv", user / "labels", clicks, NAMES)
    about = prepare(user, truth=user / "truth", side=64)
    assert about.validation == ("im5",)
    assert about.dense
    assert len(about.train) == 5
    split = sets.load("own", "test", data_root=user / "prepared")
    np.testing.assert_array_equal(split.truth[0], np.asarray(Image.open(user / "truth" / "im5.png")))


def test_a_single_image_is_measured_on_itself(user):
    for number in range(1, 6):
        (user / "images" / f"im{number}.png").unlink()
    write("csv", user / "labels", {"im0": [((5, 5), 0), ((20, 30), 1)]}, NAMES)
    about = prepare(user)
    assert about.validation == ("im0",) == tuple(about.train)
    assert any("the training images themselves" in line for line in own.summary(about, describe(about)))


def test_rare_classes_are_shown_more_often():
    train = {f"a{i}": [0] for i in range(15)} | {"rare": [0, 1]}
    about = user_folder.Prepared(("x", "y"), None, 9, 1, train, (), False, (), (), "")
    weights = user_folder.weights(about)
    assert weights[:15].tolist() == [1.0] * 15
    assert weights[15] == pytest.approx(np.sqrt(8))
    shown = user_folder.repeated(about, 1000)
    assert set(shown) == set(train)
    assert shown.count("rare") / shown.count("a0") == pytest.approx(np.sqrt(8), rel=0.05)
    assert set(user_folder.repeated(about, 18)) == set(train)


def test_boxes_are_segmented_and_background_lies_outside(tmp_path):
    image = np.full((40, 60, 3), 30, np.uint8)
    image[12:28, 20:40] = (220, 60, 60)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    box = "<box label='cat' xtl='16' ytl='8' xbr='44' ybr='32'/><points label='dog' points='2,2'/>"
    (tmp_path / "a.xml").write_text(f"<annotations><image name='a.png'>{box}</image></annotations>")
    expected = np.zeros((40, 60), np.uint8)
    expected[12:28, 20:40] = 1
    for names in (NAMES, ("cat", "dog")):
        found = user_folder.survey(tmp_path / "images", tmp_path / "a.xml", names_file(tmp_path, names))
        (sample,) = user_folder.render(found, 60, width=1)
        outside = 0 if names == NAMES else UNLABELED
        wanted = np.where(expected == 1, names.index("cat"), outside)
        wanted[2, 2] = names.index("dog")
        np.testing.assert_array_equal(sample.labels, wanted)
    (sample,) = user_folder.render(found, 30, width=1)
    assert sample.labels.shape == (20, 30)
    assert sample.labels[10, 15] == 0


def test_the_run_that_options_describe(user):
    about = prepare(user)
    assert describe(about).method == "Baseline"
    run = describe(about, complete=True, steps=100)
    assert run.method == "AGMM"
    assert "absent" in dict(run.options)["terms"]
    assert run.epochs * run.train_images >= 100 * run.batch_size
    assert agmm.Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    run = describe(about, method="AGMM")
    assert dict(run.options)["terms"] == ("seg", "self", "spar", "con")


def test_colors_are_those_of_voc():
    colors = prediction.palette(22, 0)
    assert colors[[0, 1, 2, 15, 20]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128]]
    assert prediction.palette(3, None).tolist() == colors[1:4].tolist()
    assert prediction.palette(3, 1).tolist() == colors[[1, 0, 2]].tolist()


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = networks.build("small", 3, stem=8, feature_channels=16).eval()
    return own.Model(net, NAMES, 0, 64, evaluation.Normalization((0.4,) * 3, (0.2,) * 3), torch.device("cpu"))


def test_masks_of_large_images_are_the_best_class_of_enlarged_maps(model):
    image = shapes.SHAPES.make("test", 1, seed=0).images[0].repeat(3, 0).repeat(4, 1)
    maps = own.probabilities(model, image)
    assert max(maps.shape[-2:]) == 64
    large = torch.nn.functional.interpolate(maps, image.shape[:2], mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(own.mask(model, image), large.argmax(1)[0].numpy())


def test_onnx_predicts_as_torch(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    assert prediction.export_onnx(model.net, model.normalization, path) <= 1e-4
    session = onnxruntime.InferenceSession(str(path))
    image = shapes.SHAPES.make("test", 1, seed=0).images[0][:49]
    inputs = (image.astype(np.float32) / 255).transpose(2, 0, 1)[None].repeat(3, 0)
    (found,) = session.run(None, {"images": inputs})
    np.testing.assert_allclose(found[:1], own.probabilities(model, image).numpy(), atol=1e-4)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)


def test_onnx_without_its_packages(monkeypatch, user, capsys):
    monkeypatch.setattr(prediction, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    assert train(user, "--onnx") == 2
    assert "pip install 'agmm[onnx]'" in capsys.readouterr().err
    assert not (user / "model").exists()


def test_the_notebook_runs_as_it_is(tmp_path):
    given = {"out": str(tmp_path / "own"), "steps": 2, "side": 32, "device": "cpu"}
    run_notebook(ROOT / "notebooks" / "explore" / "own_images.ipynb", given)
    report = pd.read_csv(tmp_path / "own" / "predicted" / "report.csv")
    assert report["class"].tolist() == [*shapes.CLASS_NAMES, "mean"]


def test_the_same_call_resumes(user, short):
    """After an interruption behind the first of two epochs it ends with the same weights as without."""
    options = replace(SHORT, method="AGMM")
    whole = own.train(*folders(user), user / "whole", options, device="cpu")
    with interruption():
        own.train(*folders(user), user / "parts", options, device="cpu")
    assert own.train(*folders(user), user / "parts", options, device="cpu").confusion == whole.confusion
    assert "epoch 1 of 2" in (user / "parts" / "log.txt").read_text()
    weights = [(user / part / "model.safetensors").read_bytes() for part in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_cpu_starts_from_imagenet_where_the_weights_are_at_hand(user, monkeypatch, caplog):
    if lite0_file() is None:
        pytest.skip("the package of the weights is not installed")
    about = prepare(user)
    run = describe(about)
    assert (run.network, run.init, run.normalize) == ("lite0", "imagenet", False)
    assert describe(about, network="small").init == "scratch"

    def offline(*_):
        raise RuntimeError("no network")

    monkeypatch.setattr(backbones, "lite0", offline)
    assert describe(about).network == "small"
    assert "training the small network from scratch: no network" in caplog.text


def test_a_model_from_imagenet_is_exported(user, short):
    if lite0_file() is None:
        pytest.skip("the package of the weights is not installed")
    own.train(*folders(user), user / "model", replace(SHORT, network="lite0"), device="cpu")
    model = own.load(user / "model", device="cpu")
    assert "efficientnet-lite0" in json.loads((user / "model" / "model.json").read_text())["network"]
    pytest.importorskip("onnxscript")
    assert prediction.export_onnx(model.net, model.normalization, user / "model.onnx") <= 1e-4


def test_the_large_network_without_its_weights(user, monkeypatch):
    """Where ImageNet weights cannot be had it trains from scratch."""

    def offline(name, classes, init):
        raise RuntimeError("no network")

    about = prepare(user)
    monkeypatch.setattr(networks, "build", offline)
    run = describe(about, network="resnet50")
    assert (run.network, run.init, run.lr) == ("resnet50", "scratch", 0.01)
    monkeypatch.setattr(networks, "build", lambda name, classes, init: None)
    assert describe(about, network="resnet50", init="scratch").init == "scratch"
    for init in ("auto", "imagenet"):
        run = describe(about, network="resnet50", init=init)
        assert (run.init, run.lr, run.head_factor) == ("imagenet", 0.004, 10)
