"""Learning from image tags (ToCo): online pseudo labels from class activation maps, for any objective.

L. Ru, H. Zheng, Y. Zhan, B. Du, "Token Contrast for Weakly-Supervised Semantic Segmentation", CVPR 2023. A network
learns to classify image tags; where it looks is refined into pseudo labels, on which an objective trains the
segmentation in the same run: with partial cross-entropy ToCo, with a mixture AGMM or AGMM++ on tags (Eq. 17).
B is the batch, K the classes with the background, which must be code 0; tags are the others. Tokens are on (h, w).
"""

import math
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm import evaluation
from agmm.codes import UNLABELED, VOID
from agmm.evaluation import Normalization
from agmm.networks import Tokens
from agmm.objectives import Objective, Output, full_precision, one_of
from agmm.objectives.common import Batch
from agmm.rivals import cams, crf_loss

ENERGY_WEIGHT = 1e-7  # factor in the term ``reg``, besides its weight: the energy is a sum over pairs of pixels
TEACHER_MOMENTUM = 0.9
GLOBAL_SCALE = (0.4, 1.0)  # share of the area that the second global view shows


@dataclass(frozen=True)
class Options:
    """How a run learns from image tags; the defaults are ToCo's on VOC. Weights of 0 leave a term out."""

    high: float = 0.7  # activation above which a pixel is foreground
    low: float = 0.25  # activation up to which it is background
    background: float = 0.5  # activation up to which a CAM says background where CAMs are evaluated
    warmup_steps: int = 2000  # before the pseudo labels train the segmentation (COCO: 8,000)
    auxiliary_until: int = 0  # step before which auxiliary CAMs make labels and no tokens are contrasted (COCO: 12,000)
    seg: float = 0.1  # weight of the objective on pseudo labels
    reg: float = 0.05  # weight of the gated energy
    ptc: float = 0.2  # weight of patch token contrast; convolutional networks have no tokens to contrast
    ctc: float = 0.5  # weight of class token contrast
    scales: tuple[float, ...] = (1.0, 0.5, 1.5)  # of the CAMs
    refine: bool = True  # whether to refine pseudo labels along the image's edges
    refine_scale: float = 0.5  # size at which they are refined, relative to the image
    dilations: tuple[int, ...] = cams.DILATIONS  # distances of the neighbors that refine
    temperature: float = 0.5  # of class token contrast (COCO: 1.0)
    photometric: bool = True  # whether to change the colors of the training crops
    local_crops: int = 8  # number of local views of class token contrast
    local_size: int = 96  # side of the local views

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"thresholds must be ordered 0 <= low <= high <= 1, not {self.low} and {self.high}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales of CAMs are positive numbers, at least one, not {self.scales}")


def options(**given: Any) -> Options:
    """Make the options of a run with ``labels="tags"``; unknown names are refused with the list of known ones."""
    known = tuple(field.name for field in fields(Options))
    for name in given:
        one_of("option of tags", name, known)
    return Options(**given)


class FromTags(Objective, nn.Module):
    """An objective on pseudo labels, with everything that makes them.

    Its parameters, the heads that learn tags and contrast tokens, exist in training only. The loss is, with the weights
    of `Options` and as far as its terms have begun,

        cls + cls_aux + ptc * PTC + ctc * CTC + seg * (the objective's loss) + reg * (gated energy)

    The ``inner`` objective trains the segmentation on the pseudo labels; `balanced_cross_entropy` replaces its term
    ``seg``. ``token_channels`` is C of `networks.Tokens`. Without a ``transformer`` the network has no middle tokens
    and class tokens, hence there is no auxiliary classifier and no token contrast.
    """

    def __init__(
        self, inner: Any, num_classes: int, options: Options, token_channels: int, transformer: bool = False
    ) -> None:
        super().__init__()
        self.inner, self.num_classes, self.options = inner, num_classes, options
        self.classifier = nn.Conv2d(token_channels, num_classes - 1, 1, bias=False)
        self.auxiliary = nn.Conv2d(token_channels, num_classes - 1, 1, bias=False) if transformer else None
        self.student = ContrastHead(token_channels) if transformer and options.ctc else None
        self.teacher = deepcopy(self.student).requires_grad_(False) if self.student is not None else None

    def learn(self, module: nn.Module, batch: Batch, normalization: Normalization | None = None) -> Output:
        """Return the loss of a microbatch, from one forward pass of ``module`` with gradient and several without.

        ``module`` is the network, or it wrapped for several processes. The batch's labels say what is padding
        (``VOID``), its image classes are tags, the background among them; its images have the ``normalization``. The
        terms are cls, cls_aux, ptc, ctc, the objective's, and reg, as far as they are asked for; 0 before they begin.
        ``reg`` is the energy times `ENERGY_WEIGHT`.
        """
        o, tags, net = self.options, batch.image_classes[:, 1:], getattr(module, "module", module)
        colors, inputs = evaluation.denormalize(batch.images, normalization), batch.images
        source = (255 * colors).round().to(torch.uint8)
        if o.photometric:
            colors = photometric(source, blur=1.0).float() / 255
            inputs = evaluation.normalize(colors, normalization)
        segments = batch.step >= o.warmup_steps
        contrasts = self.auxiliary is not None and bool(o.ptc or o.ctc) and batch.step >= o.auxiliary_until
        maps, middle = self.maps(net, inputs, tags) if segments or contrasts else (None, None)
        further, positive = self._views(source, middle, normalization) if contrasts else ([], None)
        needs = getattr(self.inner, "needs", ())
        features, logits, *inner, tokens = module(inputs, inner="inner_features" in needs, views=further)
        with torch.autocast(logits.device.type, enabled=False):
            logits, void = full_precision(logits), batch.labels == VOID
            terms, loss = self._token_terms(tokens, tags, void, middle if contrasts else None, positive)
            if segments and maps is not None:
                seeds = middle if middle is not None and batch.step < o.auxiliary_until else maps
                labels = self.labels(seeds, tags, colors).masked_fill(void, VOID)
                others = dict(zip(("grid_logits", "inner_features"), inner, strict=False))
                others |= {"images": colors} if "images" in needs else {}
                output = self.inner(features, logits, labels, batch.image_classes, None, **others)
                output = self._segmentation_terms(output, logits, labels, colors)
                terms, loss = terms | output.terms, loss + output.loss
            # Every parameter has a gradient at every step: so several processes expect it.
            idle = logits.sum() + sum(p.sum() for p in self.parameters() if p.requires_grad)
            zero = torch.zeros_like(loss)
            return Output(loss + 0 * idle, {name: terms.get(name, zero) for name in (*self._terms(), *terms)})

    def maps(self, net: nn.Module, inputs: Tensor, tags: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return CAMs (B, K - 1, H, W) of the tags, main and auxiliary (`cams.multi_scale`), 0 for other classes."""
        auxiliary = self.auxiliary.weight if self.auxiliary is not None else None
        maps, middle = cams.multi_scale(net, inputs, self.classifier.weight, auxiliary, self.options.scales)
        among = tags[..., None, None]
        return maps * among, middle * among if middle is not None else None

    @torch.no_grad()
    def maps_of_whole(self, net: nn.Module, images: Tensor, tags: Tensor, side: int | None) -> Tensor:
        """Return the main CAMs (B, K - 1, H, W) of whole images, seen as squares of one side or as they are."""
        if side is None:
            return self.maps(net, images, tags)[0]
        squares = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        maps, _ = self.maps(net, squares, tags)
        return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)

    def labels(self, maps: Tensor, tags: Tensor, colors: Tensor) -> Tensor:
        """Make pseudo labels (B, H, W) from the CAMs of the tags: classes or ``UNLABELED``."""
        o = self.options
        if not o.refine:
            return cams.plain_labels(maps, o.high, o.low)
        return cams.refined_labels(maps, tags, colors, o.high, o.low, o.refine_scale, o.dilations)

    def _terms(self) -> tuple[str, ...]:
        o, transformer = self.options, self.auxiliary is not None
        names = {"cls": True, "cls_aux": transformer, "ptc": transformer and o.ptc, "ctc": transformer and o.ctc}
        names |= dict.fromkeys(getattr(self.inner, "terms", None) or ("seg",), True) | {"reg": bool(o.reg)}
        return tuple(name for name, there in names.items() if there)

    def _views(
        self, source: Tensor, middle: Tensor | None, normalization: Normalization | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return network inputs of further views, and which of all views (B, V) are positive.

        A view is positive if it shows more than background, by the auxiliary CAMs ``middle`` (B, K - 1, H, W).
        """
        if self.student is None or middle is None:
            return [], None
        o, strength = self.options, middle.amax(1)
        states = (strength > o.low).long() + (strength >= o.high)
        crops, positive = local_crops(photometric(source, blur=0.5), states, o.local_crops, o.local_size)
        further = [second_global(source), crops.flatten(0, 1)]
        inputs = [evaluation.normalize(images.float() / 255, normalization) for images in further]
        return inputs, torch.cat([positive.new_ones(len(positive), 2), positive], 1)

    def _token_terms(
        self, tokens: Tokens, tags: Tensor, void: Tensor, middle: Tensor | None, positive: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Terms that learn tags (B, K - 1) and contrast tokens, and their weighted sum."""
        o, final = self.options, full_precision(tokens.final)
        terms = {"cls": tag_loss(self.classifier, final, tags)}
        if self.auxiliary is not None and tokens.middle is not None:
            terms["cls_aux"] = tag_loss(self.auxiliary, full_precision(tokens.middle), tags)
        if o.ptc and middle is not None:
            grid = final.shape[-2:]
            activation = F.interpolate(middle, size=grid, mode="bilinear", align_corners=False)
            padding = F.interpolate(void[:, None].float(), size=grid, mode="nearest-exact")[:, 0] > 0
            labels = cams.plain_labels(activation, o.high, o.low).masked_fill(padding, VOID)
            terms["ptc"] = patch_contrast(final, labels)
        if positive is not None and self.student is not None and self.teacher is not None:
            self.teacher.follow(self.student)
            whole, second, local = (full_precision(summary) for summary in tokens.summaries)
            all_views = torch.cat([whole[:, None], second[:, None], local.unflatten(0, (len(whole), -1))], 1)
            with torch.no_grad():
                reference = self.teacher(all_views[:, :2])
            terms["ctc"] = class_contrast(reference, self.student(all_views), positive, o.temperature)
        weights = {"ptc": o.ptc, "ctc": o.ctc}
        return terms, torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    def _segmentation_terms(self, inner: Output, logits: Tensor, labels: Tensor, colors: Tensor) -> Output:
        """The objective's output with the balanced cross-entropy in the place of its own, and the gated energy."""
        o, terms, loss = self.options, dict(inner.terms), inner.loss
        if "seg" in terms:
            seg = balanced_cross_entropy(logits, labels, self.num_classes)
            loss, terms["seg"] = loss - terms["seg"] + seg, seg
        loss = o.seg * loss
        if o.reg:
            terms["reg"] = ENERGY_WEIGHT * gated_energy(logits, colors, labels)
            loss = loss + o.reg * terms["reg"]
        return Output(loss, terms)


# --- Loss terms -------------------------------------------------------------------------------------------------------


class ContrastHead(nn.Module):
    """Class tokens (..., C) to vectors (..., 1024) that are contrasted: an MLP and a linear layer of unit rows."""

    def __init__(self, channels: int, hidden: int = 2048, bottleneck: int = 256, out: int = 1024) -> None:
        super().__init__()
        layers = nn.Linear(channels, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.directions = nn.Parameter(nn.init.trunc_normal_(torch.empty(out, bottleneck), std=0.02))

    def forward(self, tokens: Tensor) -> Tensor:
        """Inner products of the normalized vector with every direction."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.directions, dim=-1))

    @torch.no_grad()
    def follow(self, other: "ContrastHead", momentum: float = TEACHER_MOMENTUM) -> None:
        """Move the parameters towards another head's."""
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 1 - momentum)


def tag_loss(classifier: nn.Module, tokens: Tensor, tags: Tensor) -> Tensor:
    """Average the binary cross-entropy of every tag over tags (B, K - 1) and images (ToCo, cls).

    ``-t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))`` with ``z = classifier(max over (h, w) of tokens (B, C, h, w))``.
    """
    logits = classifier(tokens.amax((2, 3), keepdim=True)).flatten(1)
    return F.binary_cross_entropy_with_logits(logits, tags.to(logits))


def balanced_cross_entropy(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Average cross-entropy over the background and over the foreground, half each; an empty one is 0 (ToCo, seg).

    ``-1/2 mean_{y = 0} log P_0 - 1/2 mean_{y > 0} log P_y`` of logits (B, K, H, W) and labels (B, H, W).
    """
    foreground = (labels > 0) & (labels < num_classes)
    target = torch.where(foreground, labels, 0)
    cross = F.cross_entropy(logits, target, reduction="none")
    halves = ((cross * part).sum() / part.sum().clamp_min(1) for part in (labels == 0, foreground))
    return 0.5 * sum(halves, logits.new_zeros(()))


def patch_contrast(tokens: Tensor, labels: Tensor) -> Tensor:
    """Ask tokens of equal labels to point along one line, and others at right angles (ToCo, PTC).

    ``1/2 (1 - sum_{same} s_ij / (n_same + 1)) + 1/2 sum_{other} s_ij / (n_other + 1)`` with ``s_ij = |cos(x_i, x_j)|``
    over the pairs of equal and of different labels of tokens (B, C, h, w); in [0, 1], 0.5 where there is no pair. Pairs
    are of one image and counted over the batch. Labels (B, h, w) int64 are 0 … K-1, the background counts as a class;
    tokens with another code take no part.
    """
    direction = F.normalize(tokens.flatten(2), dim=1)
    similarity = (direction.transpose(1, 2) @ direction).abs()
    flat = labels.flatten(1)
    known = flat < UNLABELED
    pairs = known[:, :, None] & known[:, None] & ~torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
    equal = flat[:, :, None] == flat[:, None]
    same, other = pairs & equal, pairs & ~equal
    near, far = ((similarity * which).sum() / (which.sum() + 1) for which in (same, other))
    return 0.5 * (1 - near) + 0.5 * far


def class_contrast(reference: Tensor, student: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Ask global views to agree with views that show more than background, not with the others (ToCo, CTC).

    With ``e_gi = exp(t_g . s_i / tau)`` of the teacher's vector of a global view g (``reference`` (B, 2, D), without
    gradient) and the student's of any view i (B, V, D), and the sum ``N_g`` of ``e_gi`` over the views that are not
    ``positive`` (B, V), an image's loss is the mean over g of

        (sum_{positive i} log((e_gi + N_g + 1e-4) / e_gi) + log(1 + N_g + 1e-4)) / (number of positives + 1e-4)

    Its last logarithm, of the released code, pushes negatives once more without a positive to compare with. Computed
    from logarithms, so that no exponential overflows.
    """
    e = reference @ student.transpose(1, 2) / temperature
    negative = e.masked_fill(positive[:, None], -torch.inf)
    negatives = torch.logsumexp(F.pad(negative, (0, 1), value=math.log(1e-4)), 2, keepdim=True)
    pulled = ((torch.logaddexp(e, negatives) - e) * positive[:, None]).sum(2)
    pushed = torch.logaddexp(torch.zeros_like(negatives), negatives)[..., 0]
    return ((pulled + pushed).mean(1) / (positive.sum(1) + 1e-4)).mean()


def gated_energy(
    logits: Tensor, colors: Tensor, labels: Tensor, backend: crf_loss.Backend = "lattice", sigma_xy: float = 100.0
) -> Tensor:
    """Return `crf_loss.pairwise_energy` where pseudo labels are missing or the segmentation uncertain (ToCo, AFA; reg).

    Of logits (B, K, H, W), colors (B, 3, H, W) in [0, 1], not normalized, and labels (B, H, W); ``VOID`` takes no part.
    """
    return crf_loss.pairwise_energy(
        logits.softmax(1),
        (255 * colors).round(),
        labels != VOID,
        sigma_xy=sigma_xy,
        backend=backend,
        unlabeled=labels == UNLABELED,
    )


# --- Further views ----------------------------------------------------------------------------------------------------
# Of images (B, 3, H, W) uint8, each with draws of its own from torch's global generator, which a training seeds.


def photometric(images: Tensor, blur: float, solarize: float = 0.0) -> Tensor:
    """Change colors by jitter, grayscale, blur and solarization; ``blur`` and ``solarize`` are probabilities."""
    from torchvision.transforms import v2  # here, as it takes a second and only few trainings need it

    change = v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], blur),
            v2.RandomSolarize(128, solarize),
        ]
    )
    return torch.stack([change(image) for image in images])


def second_global(images: Tensor) -> Tensor:
    """Cut a random part of each training crop (ours; ToCo: of the whole image), resize it and change its colors."""
    from torchvision.transforms import v2

    resized = v2.RandomResizedCrop(tuple(images.shape[-2:]), GLOBAL_SCALE, antialias=True)
    cut = v2.Compose([resized, v2.RandomHorizontalFlip()])
    return photometric(torch.stack([cut(image) for image in images]), blur=0.1, solarize=0.2)


def local_crops(images: Tensor, states: Tensor, count: int, side: int) -> tuple[Tensor, Tensor]:
    """Cut small crops (B, count, 3, side, side) around pixels that are not certain to be foreground.

    ``states`` (B, H, W) int64 are 0: background, 1: uncertain, 2: foreground. Where fewer than ``count`` places have a
    state of at most 1, the crops lie anywhere. Besides, return which (B, count) are positive, which show more than
    background: their mean state exceeds 0.2.
    """
    height, width = states.shape[1:]
    if side >= min(height, width):
        raise ValueError(f"local crops of {side} do not fit into images of {height} x {width}; choose a smaller side")
    rows, columns = height - side + 1, width - side + 1
    middle = states[:, side // 2 : side // 2 + rows, side // 2 : side // 2 + columns].flatten(1)
    allowed = middle <= 1
    anywhere = allowed.sum(1, keepdim=True) < count
    keys = torch.rand(allowed.shape).to(states.device) + (allowed | anywhere)
    place = keys.topk(count, dim=1).indices
    steps = torch.arange(side, device=states.device)
    y = (place // columns)[..., None, None] + steps[:, None]
    x = (place % columns)[..., None, None] + steps
    image = torch.arange(len(images), device=states.device)[:, None, None, None]
    crops = images.movedim(1, -1)[image, y, x].movedim(-1, 2)
    return crops, states[image, y, x].float().mean((2, 3)) > 0.2
