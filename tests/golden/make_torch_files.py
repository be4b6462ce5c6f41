"""Made torch_zip.pth, torch_legacy.pth and torch_weights.npz with PyTorch 2.13.0 and numpy 2.4.6 (Python 3.11).

python -m venv torchvenv && torchvenv/bin/pip install torch==2.13.0 numpy && torchvenv/bin/python make_torch_files.py

One checkpoint in both formats, with what a reader may get wrong: a tensor whose strides are not those of its shape, two
tensors in one storage, one of them with an offset, types that numpy lacks, a Parameter, entries that are no tensors.
torch_weights.npz holds the numbers as PyTorch itself reads them back.
"""

import collections
import pathlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
row = torch.arange(12, dtype=torch.float32) / 8
weights = collections.OrderedDict(
    [
        ("module.whole", row),
        ("module.part", row[4:10].reshape(2, 3)),  # same storage, offset 4
        ("module.every_third", row[1::3]),  # same storage, stride 3
        ("module.transposed", torch.arange(24, dtype=torch.float64).reshape(2, 3, 4).permute(2, 0, 1)),
        ("module.repeated", torch.tensor([[0.5], [-1.5]]).expand(2, 3)),  # stride 0
        ("module.parameter", torch.nn.Parameter(torch.tensor([[1.5, -2.5], [0.25, 4.0]]))),
        ("module.half", torch.tensor([1.5, -65504.0], dtype=torch.float16)),
        ("module.bfloat16", torch.tensor([1.0, -3.140625, 2.0**100], dtype=torch.bfloat16)),
        ("module.int64", torch.tensor([-(2**40), 3])),
        ("module.uint16", torch.tensor([65535, 1], dtype=torch.uint16)),
        ("module.uint8", torch.tensor([255, 0, 7], dtype=torch.uint8)),
        ("module.bool", torch.tensor([True, False, True])),
        ("module.empty", torch.zeros(0, 5)),
        ("module.norm.num_batches_tracked", torch.tensor(7)),
    ]
)
expected = {
    name.removeprefix("module."): (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    for name, tensor in weights.items()
}
weights["module.scale"] = 0.5  # no tensor: a reader leaves it out
weights._metadata = {"": {"version": 1}}
checkpoint = {
    "epoch": 3,
    "best": np.float64(0.875),
    "history": np.array([0.5, 0.875]),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "size": torch.Size([2, 3]),
    "state_dict": weights,
    "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}
np.savez_compressed(HERE / "torch_weights.npz", **expected)
torch.save(checkpoint, HERE / "torch_zip.pth")
torch.save(checkpoint, HERE / "torch_legacy.pth", _use_new_zipfile_serialization=False)
