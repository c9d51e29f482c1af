"""Writes the files beside it. Run with PyTorch 2.x: python3 make.py"""
import collections
import json
import warnings
import zipfile

import torch

warnings.filterwarnings("ignore")


def odd(floats8):
    torch.manual_seed(1)
    base = torch.arange(24, dtype=torch.float32)
    big = torch.randn(10, 12).to(torch.bfloat16)
    d = collections.OrderedDict()
    d["plain"] = base.reshape(4, 6)
    d["transposed"] = base.reshape(4, 6).t()
    d["offset"] = base[5:17].reshape(3, 4)
    d["every second"] = base[::2]
    d["columns"] = base.reshape(4, 6)[:, 1:4]
    d["permuted"] = base.reshape(2, 3, 4).permute(1, 2, 0)
    d["expanded"] = base[3:6].unsqueeze(1).expand(3, 5)
    d["stepped rows"] = base.reshape(4, 6)[::2, ::3]
    d["scalar"] = torch.tensor(2.5, dtype=torch.float64)
    d["empty"] = torch.empty(0, 7, dtype=torch.float16)
    d["bf16"] = big
    d["bf16 transposed"] = big.t()
    d["tied"] = big
    d["parameter"] = torch.nn.Parameter(torch.randn(3, 3).to(torch.float16))
    d["f64"] = torch.randn(2, 5, dtype=torch.float64)
    d["i64"] = torch.arange(-3, 3)
    d["u8"] = torch.arange(5, dtype=torch.uint8)
    d["bool"] = torch.tensor([True, False])
    if floats8:
        d["f8"] = torch.arange(4.0).to(torch.float8_e4m3fn)
    return d


def describe(d):
    out = []
    for name, t in d.items():
        t = t.detach()
        raw = bytes(t.contiguous().reshape(-1).view(torch.uint8).tolist()) if t.numel() else b""
        out.append({"name": name, "dtype": str(t.dtype), "shape": list(t.shape), "data": raw.hex()})
    return out


torch.save(odd(True), "odd.pt")
torch.save(odd(True), "odd-proto4.pt", pickle_protocol=4)
torch.save(odd(False), "odd-legacy.pt", _use_new_zipfile_serialization=False)
torch.serialization.set_crc32_options(False)
torch.save(odd(True), "odd-nocrc.pt")
torch.serialization.set_crc32_options(True)
with zipfile.ZipFile("odd.pt") as src, zipfile.ZipFile("odd-deflated.pt", "w", zipfile.ZIP_DEFLATED) as dst:
    for info in src.infolist():
        dst.writestr(info.filename, src.read(info))
json.dump(describe(odd(True)), open("odd.json", "w"), indent=0)

torch.manual_seed(2)
lin = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
torch.save(lin.state_dict(), "module.pt")  # with _metadata
torch.save({"model": lin.state_dict(), "epoch": 3, "lr": 0.1, "name": "x", "opt": [None, True, (1, 2)]}, "nested.pt")
json.dump(describe(lin.state_dict()), open("module.json", "w"), indent=0)
