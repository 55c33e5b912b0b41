"""The Triton kernels: their numbers under Triton's interpreter (and on a GPU, if there is one), and that they compile.

The interpreter has to be chosen before the kernels are imported, so the tests of numbers run in a process of their own.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from agmm import fused, fused_cuda, objectives
from agmm.fused import Supervision
from agmm.labels import UNLABELED, VOID
from agmm.reference import dense_agmm
from tests.helpers import ROOT
from tests.loops import random_problem

triton = pytest.importorskip("triton", reason="Triton is not published for this platform")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda" if torch.cuda.is_available() else None
numbers = pytest.mark.skipif(DEVICE is None, reason="test_numbers_under_the_interpreter runs it")
EPS = 1e-6
KERNELS = (
    "weighted_sums",
    "add_weighted",
    "differences",
    "differences_backward",
    "segmentation",
    "segmentation_backward",
)
FORMS = [
    (torch.float32, "first"),
    (torch.float32, "last"),
    (torch.float32, "sliced"),
    (torch.bfloat16, "last"),
    (torch.float16, "first"),
]


@pytest.mark.skipif(INTERPRETED, reason="runs the others")
def test_numbers_under_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip(f"the interpreter of Triton {triton.__version__} does not work with this NumPy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[2-9]\d passed", done.stdout)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laid_out(x, dtype, layout):
    """The same values in a dtype and memory layout, on the device."""
    x = x.to(DEVICE, dtype)
    if layout == "last":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.repeat_interleave(2, 2)[..., ::2] if layout == "sliced" else x


def close(found, expected, dtype=torch.float32):
    """Equal to within the last bits of a dtype, relative to the largest value."""
    assert found.dtype == dtype
    assert found.isfinite().all()
    scale = expected.abs().max().clamp_min(1e-30) if expected.numel() else 1
    error = (found.double().cpu() - expected.cpu()).abs() / scale
    assert error.numel() == 0 or error.max() < 4 * max(torch.finfo(dtype).eps, 1e-6)


def check_layout(gradient, like):
    assert gradient.shape == like.shape
    assert gradient.dtype == like.dtype
    if like.is_contiguous() or like.transpose(1, 2).is_contiguous():
        assert gradient.stride() == like.stride()


def check_differences(features, means, per_image):
    filled = torch.arange(means.shape[1]) < torch.tensor(per_image)[:, None]
    upstream = random(*means.shape[:2], features.shape[2], seed=2)
    f, mu = features.detach().cpu().double().requires_grad_(), means.double().requires_grad_()
    plain = (f.unsqueeze(1) - mu.unsqueeze(3)).abs().mean(2) * filled[..., None]
    gradients = torch.autograd.grad(plain, (f, mu), upstream.double())

    means, upstream = means.to(DEVICE), upstream.to(DEVICE)
    close(fused_cuda.differences(features, means, per_image), plain.detach())
    grad_features, grad_means = fused_cuda.differences_backward(features, means, per_image, upstream)
    check_layout(grad_features, features)
    close(grad_features, gradients[0], features.dtype)
    close(grad_means, gradients[1])


@numbers
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
def test_differences_equal_plain_operations(dtype, layout):
    channels = 70 if layout == "last" else 20
    features = laid_out(random(3, channels, 35), dtype, layout)
    means = random(3, 3, channels, seed=1)
    means[0, 1] = features[0, :, 7].float().cpu()  # a pixel on the kink
    check_differences(features, means, (2, 0, 3))


@numbers
@pytest.mark.parametrize(("slots", "per_image"), [(18, (17, 2)), (6, (6, 5)), (0, (0, 0))])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_any_number_of_slots(slots, per_image, layout):
    """17 components take a second pass over the features."""
    check_differences(laid_out(random(2, 5, 11), torch.float32, layout), random(2, slots, 5, seed=1), per_image)


@numbers
def test_programs_of_several_tiles(monkeypatch):
    monkeypatch.setattr(fused_cuda, "PROGRAMS", 1)
    check_differences(laid_out(random(2, 3, 50), torch.float32, "last"), random(2, 2, 3, seed=1), (2, 1))


@numbers
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
@pytest.mark.parametrize("share", [0.02, 0.7])
def test_weighted_sums_equal_matrix_products(dtype, layout, share):
    features = laid_out(random(2, 70, 130), dtype, layout)
    weights = (random(2, 3, 130, seed=1).abs() * (random(2, 3, 130, seed=2).sigmoid() < share)).to(DEVICE)
    weights[0, 1] = 0
    expected = weights.double() @ features.double().transpose(1, 2)
    close(fused_cuda.weighted_sums(features, weights), expected)
    sums = random(2, 3, 70, seed=3).to(DEVICE)
    found = features.clone()
    fused_cuda.add_weighted(found, weights, sums)
    close(found, features.double() + sums.double().transpose(1, 2) @ weights.double(), dtype)


def plain_segmentation(logits, scores, given):
    log_p, valid, eps = logits.log_softmax(1), (given.labels != VOID)[:, None], given.eps
    p = log_p.exp()
    chosen = p.gather(1, given.classes[..., None].expand(-1, -1, p.shape[2]))
    cross = -scores * (chosen + eps).log() - (1 - scores) * (1 - chosen + eps).log()
    labeled = (given.labels >= 0) & (given.labels < logits.shape[1])
    own = -log_p.gather(1, (given.labels * labeled)[:, None]) * labeled[:, None]
    hit = given.labels[:, None] == given.classes[..., None]
    spar = -(scores + eps).log() * hit - (1 - scores + eps).log() * (~hit & labeled[:, None] & given.negatives)
    outside = logits.new_zeros(()) if given.absent is None else -(1 - p + eps).log() * given.absent[..., None] * valid
    weighted = [(cross * valid, given.self_weight), (spar, given.spar_weight)]
    return torch.stack([own.sum() * given.seg, *((x * w[..., None]).sum() for x, w in weighted), outside.sum()])


def moved(given, change):
    """Supervision with a function applied to its tensors."""
    return replace(given, **{k: change(v) for k, v in vars(given).items() if isinstance(v, torch.Tensor)})


def check_segmentation(logits, slots=3, with_absent=True, seg=True, negatives=True):
    batch, k, pixels = logits.shape
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(k, (batch, pixels), generator=generator)
    labels[torch.rand(batch, pixels, generator=generator) < 0.5] = UNLABELED
    labels[:, ::5] = VOID
    classes = torch.stack([torch.randperm(k, generator=generator)[:slots] for _ in range(batch)])
    weight, spar = torch.rand(2, batch, slots, generator=generator)
    weight[:, 1:2], spar[:, 2:3] = 0, 0
    absent = torch.rand(batch, k, generator=generator) < 0.5 if with_absent else None
    given = Supervision(labels, classes, weight, spar, negatives, absent, seg, EPS)
    scores, upstream = torch.rand(batch, slots, pixels, generator=generator), torch.tensor([0.7, 1.3, 0.9, 0.4])

    z, g = logits.detach().cpu().double().requires_grad_(), scores.double().requires_grad_()
    plain = plain_segmentation(z, g, moved(given, lambda x: x.double() if x.is_floating_point() else x))
    gradients = torch.autograd.grad(plain, (z, g), upstream.double())
    given = moved(given, lambda x: x.to(DEVICE))
    close(fused_cuda.segmentation(logits, scores.to(DEVICE), given), plain.detach())
    grad_logits, grad_scores = fused_cuda.segmentation_backward(logits, scores.to(DEVICE), given, upstream.to(DEVICE))
    check_layout(grad_logits, logits)
    close(grad_logits, gradients[0], logits.dtype)
    close(grad_scores, gradients[1])


@numbers
@pytest.mark.parametrize(("dtype", "layout"), FORMS)
def test_segmentation_equals_plain_operations(dtype, layout):
    check_segmentation(laid_out(2 * random(2, 21, 130 if dtype == torch.float32 else 20), dtype, layout))


@numbers
@pytest.mark.parametrize("classes", [1, 19, 150])
def test_any_number_of_classes(classes):
    check_segmentation(laid_out(random(1, classes, 20), torch.float32, "last"), slots=min(classes, 3))


@numbers
@pytest.mark.parametrize(
    "options", [{"slots": 0}, {"slots": 6}, {"with_absent": False}, {"seg": False}, {"negatives": False}]
)
def test_what_is_left_out(options):
    check_segmentation(laid_out(random(2, 7, 20), torch.float32, "last"), **options)


@numbers
@pytest.mark.parametrize("layout", ["first", "last"])
def test_a_confident_wrong_prediction_is_finite(layout):
    """All mass on one absent class that is also a component's: neither the product nor a logarithm may overflow."""
    logits = torch.full((1, 150, 4), -200.0)
    logits[:, 3] = 200
    logits = laid_out(logits, torch.float32, layout)
    labels, classes = torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[3, 0]])
    given = Supervision(labels, classes, torch.ones(1, 2), torch.zeros(1, 2), True, torch.ones(1, 150) > 0, True, EPS)
    given = moved(given, lambda x: x.to(DEVICE))
    scores = torch.tensor([0.0, 1.0])[:, None].expand(1, 2, 4).to(DEVICE)
    found = fused_cuda.segmentation(logits, scores, given)
    expected = torch.tensor([400.0, 13.8155 * 2, 0.0, 13.8155]) * 4
    torch.testing.assert_close(found.cpu(), expected, rtol=0.01, atol=0)
    for gradient in fused_cuda.segmentation_backward(logits, scores, given, torch.ones(4, device=DEVICE)):
        assert gradient.isfinite().all()


@pytest.mark.skipif(not INTERPRETED, reason="needs these loops on a processor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_objective_equals_its_dense_formulation(monkeypatch, dtype):
    """Features and logits in half precision are read as they are, and computed with in single precision."""
    monkeypatch.setitem(fused.FAST, "cpu", "agmm.fused_cuda")
    monkeypatch.setattr(fused_cuda, "available", lambda x: x.dtype in fused_cuda.DTYPES)
    features, logits, labels, image_classes = random_problem(size=(9, 11)).tensors(dtype)
    output = objectives.AGMM(5)(features, logits, labels, image_classes)
    gradients = torch.autograd.grad(output.loss, (features, logits))
    leaves = [x.detach().double().requires_grad_() for x in (features, logits)]
    loss, terms = dense_agmm(*leaves, labels, image_classes, 5)
    for name, value in terms.items():
        assert output.terms[name].item() == pytest.approx(value.item(), rel=1e-5)
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for found, expected in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
        assert found.dtype == dtype
        assert (found - expected).norm() < (1e-5 if dtype == torch.float32 else 5e-3) * expected.norm()


def test_processor_tensors_and_doubles_are_not_for_these_kernels():
    assert not fused_cuda.available(torch.zeros(1))
    assert not fused_cuda.available(torch.zeros(1, dtype=torch.float64))


def launches(monkeypatch, dtype, layout, batch, slots, classes, grid, size):
    """What the four functions launch, with tensors that have a shape but no memory."""
    found = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *arguments, **options: found.append((self.kernel, arguments, options))

    for name in KERNELS:
        monkeypatch.setattr(fused_cuda.kernels, name, Recorder(getattr(fused_cuda.kernels, name)))

    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    def image(channels, pixels):
        if layout == "last":
            return empty(batch, pixels, channels, dtype=dtype).transpose(1, 2)
        return empty(batch, channels, pixels, dtype=dtype)

    features, means, per_image = image(256, grid), empty(batch, slots, 256), (slots,) * batch
    fused_cuda.differences(features, means, per_image)
    fused_cuda.differences_backward(features, means, per_image, empty(batch, slots, grid))
    fused_cuda.weighted_sums(features, empty(batch, slots, grid))
    fused_cuda.add_weighted(features, empty(batch, slots, grid), means)
    labels, codes = empty(batch, size, dtype=torch.int64), empty(batch, slots, dtype=torch.int64)
    weight, absent = empty(batch, slots), empty(batch, classes, dtype=torch.bool)
    given = Supervision(labels, codes, weight, weight, True, absent, True, EPS)
    terms = image(classes, size), empty(batch, slots, size), given
    fused_cuda.segmentation(*terms)
    fused_cuda.segmentation_backward(*terms, empty(4))
    return found


def compiled(kernel, arguments, options, capability):
    """Compile a launch ahead of time, as `kernel[grid](*arguments, **options)` would on such a GPU."""
    names = {"float32": "fp32", "bfloat16": "bf16", "int64": "i64", "int32": "i32", "uint8": "u8"}
    settings = {name: options.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    signature, constants, attributes = dict.fromkeys(options, "constexpr"), dict(options), {}
    for i, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        unaligned = kernel.params[i].do_not_specialize_on_alignment
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + names[str(value.dtype).removeprefix("torch.")]
        elif isinstance(value, int) and value == 1:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0 and not unaligned):
            attributes[i,] = [["tt.divisibility", 16]]
    signature = {name: signature[name] for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=settings)


VOC = {"batch": 16, "slots": 4, "classes": 21, "grid": 81**2, "size": 513**2}
CITYSCAPES = {"batch": 8, "slots": 14, "classes": 19, "grid": 181**2, "size": 769**2}
# All kernels at one size; at the others those that need the most registers.
BUILDS = [
    (90, torch.bfloat16, "last", VOC, ""),
    (80, torch.float32, "last", CITYSCAPES, "backward"),
    (90, torch.float32, "first", VOC, "backward"),
]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize(("capability", "dtype", "layout", "sizes", "which"), BUILDS)
def test_kernels_compile_without_spilling_registers(monkeypatch, tmp_path, capability, dtype, layout, sizes, which):
    inspect = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not inspect.exists():
        pytest.skip("this build of Triton brings no CUDA tools")
    for kernel, arguments, options in launches(monkeypatch, dtype, layout, **sizes):
        if which not in kernel.__name__:
            continue
        binary = tmp_path / "kernel.cubin"
        result = compiled(kernel, arguments, options, capability)
        binary.write_bytes(result.asm["cubin"])
        usage = subprocess.run([inspect, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
        # Spilled registers would lie on the stack.
        assert re.search(r"REG:\d+ STACK:0 ", usage), f"{kernel.__name__}: {usage}"
        assert result.metadata.shared <= 16384


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("layout", "dtype"), [*product(("first", "last"), (torch.float32, torch.bfloat16))])
def test_middle_sizes_on_a_gpu(layout, dtype):
    check_differences(laid_out(random(2, 256, 1681), dtype, layout), random(2, 4, 256, seed=1), (4, 2))
    check_segmentation(laid_out(2 * random(2, 21, 66049), dtype, layout), slots=4)
