"""Learning from image tags (ToCo): online pseudo labels from class activation maps, for any objective.

L. Ru, H. Zheng, Y. Zhan, B. Du, "Token Contrast for Weakly-Supervised Semantic Segmentation", CVPR 2023. A network
learns to classify image tags; where it looks is refined into pseudo labels, on which an objective trains the
segmentation in the same run. With partial cross-entropy this is ToCo, with a mixture AGMM or AGMM++ on tags (TPAMI
2025, Eq. 17).

B is the batch, K the classes with the background, which must be code 0; tags are the other K - 1.
"""

from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm import evaluation
from agmm.codes import VOID
from agmm.evaluation import Normalization
from agmm.networks import Tokens
from agmm.objectives import Objective, Output, full_precision, one_of
from agmm.objectives.common import Batch
from agmm.rivals import cams, tag_losses

ENERGY_WEIGHT = 1e-7
"""Factor in the term ``reg``, besides its weight: the energy is a sum over pairs of pixels."""

GLOBAL_SCALE = (0.4, 1.0)
"""Share of the area that the second global view shows."""


@dataclass(frozen=True)
class Options:
    """How a run learns from image tags; the defaults are ToCo's on VOC.

    Attributes
    ----------
    high, low : float
        Activation above which a pixel is foreground, and up to which it is background.
    background : float
        Activation up to which a CAM says background where CAMs are evaluated.
    warmup_steps : int
        Steps before the pseudo labels train the segmentation (COCO: 8,000).
    auxiliary_until : int
        Step before which pseudo labels come from the auxiliary CAMs and no tokens are contrasted (COCO: 12,000).
    seg, reg, ptc, ctc : float
        Weights of the objective on pseudo labels, of the gated energy, of patch and class token contrast; 0 leaves a
        term out. Convolutional networks have no tokens to contrast.
    scales : tuple of float
        Of the CAMs.
    refine : bool
        Refine pseudo labels along the image's edges, at ``refine_scale`` of its size over neighbors at ``dilations``.
    temperature : float
        Of class token contrast (COCO: 1.0).
    photometric : bool
        Change the colors of the training crops.
    local_crops, local_size : int
        Local views of class token contrast: number and side.
    """

    high: float = 0.7
    low: float = 0.25
    background: float = 0.5
    warmup_steps: int = 2000
    auxiliary_until: int = 0
    seg: float = 0.1
    reg: float = 0.05
    ptc: float = 0.2
    ctc: float = 0.5
    scales: tuple[float, ...] = (1.0, 0.5, 1.5)
    refine: bool = True
    refine_scale: float = 0.5
    dilations: tuple[int, ...] = cams.DILATIONS
    temperature: float = 0.5
    photometric: bool = True
    local_crops: int = 8
    local_size: int = 96

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

    Parameters
    ----------
    inner : objective
        Trains the segmentation on the pseudo labels; `tag_losses.balanced_cross_entropy` replaces its term ``seg``.
    num_classes : int
        K.
    options : Options
    token_channels : int
        C of `networks.Tokens`.
    transformer : bool
        Whether the network has middle tokens and class tokens. Without them there is no auxiliary classifier and no
        token contrast.
    """

    def __init__(
        self, inner: Any, num_classes: int, options: Options, token_channels: int, transformer: bool = False
    ) -> None:
        super().__init__()
        self.inner, self.num_classes, self.options = inner, num_classes, options
        self.classifier = nn.Conv2d(token_channels, num_classes - 1, 1, bias=False)
        self.auxiliary = nn.Conv2d(token_channels, num_classes - 1, 1, bias=False) if transformer else None
        self.student = tag_losses.ContrastHead(token_channels) if transformer and options.ctc else None
        self.teacher = deepcopy(self.student).requires_grad_(False) if self.student is not None else None

    def learn(self, module: nn.Module, batch: Batch, normalization: Normalization | None = None) -> Output:
        """Return the loss of a microbatch, from one forward pass of ``module`` with gradient and several without.

        Parameters
        ----------
        module : nn.Module
            The network, or it wrapped for several processes.
        batch : Batch
            Its labels say what is padding (``VOID``); its image classes are tags, the background among them.
        normalization : Normalization, optional
            That of the images.

        Returns
        -------
        Output
            The terms are cls, cls_aux, ptc, ctc, the objective's, and reg, as far as they are asked for; 0 before they
            begin. ``reg`` is the energy times `ENERGY_WEIGHT`.
        """
        o, tags, net = self.options, batch.image_classes[:, 1:], getattr(module, "module", module)
        colors, inputs = evaluation.denormalize(batch.images, normalization), batch.images
        source = (255 * colors).round().to(torch.uint8)
        if o.photometric:
            colors = photometric(source, blur=1.0).float() / 255
            inputs = evaluation.normalize(colors, normalization)
        segments, contrasts = batch.step >= o.warmup_steps, self._contrasts(batch.step)
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
        """Names of the terms, in their order."""
        o, transformer = self.options, self.auxiliary is not None
        names = {"cls": True, "cls_aux": transformer, "ptc": transformer and o.ptc, "ctc": transformer and o.ctc}
        names |= dict.fromkeys(getattr(self.inner, "terms", None) or ("seg",), True) | {"reg": bool(o.reg)}
        return tuple(name for name, there in names.items() if there)

    def _contrasts(self, step: int) -> bool:
        """Whether tokens are contrasted at a step."""
        o = self.options
        return self.auxiliary is not None and bool(o.ptc or o.ctc) and step >= o.auxiliary_until

    def _views(
        self, source: Tensor, middle: Tensor | None, normalization: Normalization | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Network inputs of the further views of images (B, 3, H, W), and which of all views (B, V) are positive.

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
        terms = {"cls": tag_losses.tag_loss(self.classifier, final, tags)}
        if self.auxiliary is not None and tokens.middle is not None:
            terms["cls_aux"] = tag_losses.tag_loss(self.auxiliary, full_precision(tokens.middle), tags)
        if o.ptc and middle is not None:
            grid = final.shape[-2:]
            activation = F.interpolate(middle, size=grid, mode="bilinear", align_corners=False)
            padding = F.interpolate(void[:, None].float(), size=grid, mode="nearest-exact")[:, 0] > 0
            labels = cams.plain_labels(activation, o.high, o.low).masked_fill(padding, VOID)
            terms["ptc"] = tag_losses.patch_contrast(final, labels)
        if positive is not None and self.student is not None and self.teacher is not None:
            self.teacher.follow(self.student)
            whole, second, local = (full_precision(summary) for summary in tokens.summaries)
            all_views = torch.cat([whole[:, None], second[:, None], local.unflatten(0, (len(whole), -1))], 1)
            with torch.no_grad():
                reference = self.teacher(all_views[:, :2])
            terms["ctc"] = tag_losses.class_contrast(reference, self.student(all_views), positive, o.temperature)
        weights = {"ptc": o.ptc, "ctc": o.ctc}
        return terms, torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    def _segmentation_terms(self, inner: Output, logits: Tensor, labels: Tensor, colors: Tensor) -> Output:
        """The objective's output with the balanced cross-entropy in the place of its own, and the gated energy."""
        o, terms, loss = self.options, dict(inner.terms), inner.loss
        if "seg" in terms:
            seg = tag_losses.balanced_cross_entropy(logits, labels, self.num_classes)
            loss, terms["seg"] = loss - terms["seg"] + seg, seg
        loss = o.seg * loss
        if o.reg:
            terms["reg"] = ENERGY_WEIGHT * tag_losses.gated_energy(logits, colors, labels)
            loss = loss + o.reg * terms["reg"]
        return Output(loss, terms)


# --- Further views ----------------------------------------------------------------------------------------------------
# Of images (B, 3, H, W) uint8, each with draws of its own from torch's global generator, which a training seeds.


def photometric(images: Tensor, blur: float, solarize: float = 0.0) -> Tensor:
    """Change colors by jitter, grayscale, blur and solarization; ``blur`` and ``solarize`` are probabilities."""
    change = _photometric(blur, solarize)
    return torch.stack([change(image) for image in images])


def second_global(images: Tensor) -> Tensor:
    """Cut a crop of random size and place, resize it to the image's size and change its colors.

    Ours: it is cut from the training crop. ToCo cuts it from the whole image, which a batch does not hold.
    """
    cut = _random_crop(tuple(images.shape[-2:]))
    return photometric(torch.stack([cut(image) for image in images]), blur=0.1, solarize=0.2)


def local_crops(images: Tensor, states: Tensor, count: int, side: int) -> tuple[Tensor, Tensor]:
    """Cut small crops around pixels that are not certain to be foreground.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
    states : Tensor (B, H, W) int64
        0: background, 1: uncertain, 2: foreground.
    count, side : int
        Number of crops of an image, and their size.

    Returns
    -------
    crops : Tensor (B, count, 3, side, side)
        Where fewer than ``count`` places have a state of at most 1, the crops lie anywhere.
    positive : Tensor (B, count) bool
        Whether a crop shows more than background: its mean state exceeds 0.2.
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


@cache
def _photometric(blur: float, solarize: float) -> Any:
    from torchvision.transforms import v2  # takes a second, and only few trainings need it

    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], blur),
            v2.RandomSolarize(128, solarize),
        ]
    )


@cache
def _random_crop(size: tuple[int, ...]) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(size, GLOBAL_SCALE, antialias=True), v2.RandomHorizontalFlip()])
