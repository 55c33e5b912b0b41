"""An objective of one's own: cross-entropy that counts sure pixels less (focal loss, Lin et al., ICCV 2017)."""

from dataclasses import dataclass

from torch.nn import functional as F

from agmm.codes import UNLABELED
from agmm.objectives import Output


@dataclass(frozen=True)
class Focal:
    """The mean over labeled pixels of -(1 - p)^gamma log p, p being the probability of the label."""

    num_classes: int
    gamma: float = 2.0

    def __call__(self, features, logits, labels, image_classes, counts=None):
        """Logits (B, K, H, W) and labels (B, H, W); the other arguments are not needed here."""
        log_p = -F.cross_entropy(logits.float(), labels.clamp_max(self.num_classes - 1), reduction="none")
        focal = -((1 - log_p.exp()) ** self.gamma) * log_p
        loss = focal[labels < UNLABELED].sum() / (labels < UNLABELED).sum().clamp_min(1)
        return Output(loss, {"focal": loss})
