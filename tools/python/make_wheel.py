# make_wheel.py: makes the wheel `vkv` of a build: `python make_wheel.py build/cpu dist`.
# SPDX-License-Identifier: Apache-2.0
"""Run it with the Python that the module was built for. The wheel has the module, oneDNN and the
Python files; oneTBB, hwloc and liburing are the system's (Debian: libtbb12, libhwloc15, liburing2),
and PyTorch and transformers are wanted by vkv.Cache alone.
"""

import base64
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]


def version():
    """As in runtime/include/vkv/version.h, the one place that has it."""
    header = (SOURCE / "runtime/include/vkv/version.h").read_text()
    numbers = re.findall(r"^#define VKV_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", header, re.M)
    return ".".join(numbers)


def staged_files(build, folder):
    """{name in the wheel: bytes} of what the build installs for it."""
    subprocess.run(
        ["cmake", "--install", build, "--prefix", folder, "--component", "wheel", "--strip"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    root = pathlib.Path(folder)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not any(path.name.startswith("_vkv.") for path in files):
        sys.exit(f"make_wheel: {build} has no Python module; see tools/python/README.md")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def make_wheel(build, target):
    """Writes the wheel into the folder `target` and returns its path."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    name, info = f"vkv-{version()}", f"vkv-{version()}.dist-info"
    with tempfile.TemporaryDirectory() as folder:
        files = staged_files(build, folder)
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: vkv\nVersion: {version()}\nLicense: Apache-2.0\n"
        "Summary: Quantized KV cache of multimodal LLMs across GPU memory, DRAM and NVMe\n"
        "Requires-Python: >=3.9\nProvides-Extra: transformers\n"
        'Requires-Dist: torch; extra == "transformers"\n'
        'Requires-Dist: transformers>=5.17; extra == "transformers"\n'
    ).encode()
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: make_wheel.py\nRoot-Is-Purelib: false\n"
        f"Tag: {tag}-{tag}-linux_x86_64\n"
    ).encode()
    files[f"{info}/licenses/LICENSE"] = (SOURCE / "LICENSE").read_bytes()

    record = ""
    for file, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{file},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()

    target = pathlib.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    wheel = target / f"{name}-{tag}-{tag}-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return wheel


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python tools/python/make_wheel.py BUILD_FOLDER TARGET_FOLDER")
    print(make_wheel(sys.argv[1], sys.argv[2]))
