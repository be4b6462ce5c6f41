"""torchvision's side of benchmarks/detection.py: prints seconds by name as JSON; needs torch and torchvision only."""

import json
import sys
from collections import OrderedDict

import numpy as np

from benchmarks.timing import seconds

SIZE, BATCH, OBJECTS = 512, 2, 20


def boxes_and_scores(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(number, 4)` boxes of 10 to 60 pixels a side within the image, and their scores."""
    draw = np.random.default_rng(seed)
    corner, side = draw.uniform(0, SIZE - 60, (number, 2)), draw.uniform(10, 60, (number, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32), draw.random(number).astype(np.float32)


def pyramid(seed: int = 1) -> list[np.ndarray]:
    """Returns features `(1, h, w, 256)` of strides 4 to 32."""
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(1, SIZE // s, SIZE // s, 256)).astype(np.float32) for s in (4, 8, 16, 32)]


def main() -> None:
    import torch
    import torchvision

    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    boxes, scores = map(torch.tensor, boxes_and_scores(1000))
    result = {"NMS, 1,000 boxes": seconds(lambda: torchvision.ops.nms(boxes, scores, 0.7))}

    align = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    levels = OrderedDict(
        (str(i), torch.tensor(level).permute(0, 3, 1, 2).contiguous()) for i, level in enumerate(pyramid())
    )
    rois = [torch.tensor(boxes_and_scores(512)[0])]
    with torch.no_grad():
        result["RoIAlign, 512 boxes"] = seconds(lambda: align(levels, rois, [(SIZE, SIZE)]))

    def gradient():
        for level in levels.values():
            level.requires_grad_(True).grad = None
        align(levels, rois, [(SIZE, SIZE)]).sum().backward()

    result["RoIAlign with gradient"] = seconds(gradient)

    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=SIZE, max_size=SIZE, trainable_backbone_layers=5
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images = [torch.rand(3, SIZE, SIZE) for _ in range(BATCH)]
    targets = []
    for number in range(BATCH):
        own = torch.tensor(boxes_and_scores(OBJECTS, seed=number)[0]).round()
        masks = torch.zeros(OBJECTS, SIZE, SIZE, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, own.int().tolist()):
            mask[top:bottom, left:right] = 1
        targets.append({"boxes": own, "labels": torch.ones(OBJECTS, dtype=torch.int64), "masks": masks})

    def step():
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    result["train step"] = seconds(step)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
