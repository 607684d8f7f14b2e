# make_questions.py: easy-vqa's held-out questions as pictures and a jobs file for vkv.
# SPDX-License-Identifier: Apache-2.0
"""Usage: make_questions.py OUT [--package DIR_OR_WHEEL]

Writes OUT/images and OUT/jobs.jsonl, which `vkv run --jobs` and `vkv quality --jobs` take: the
test split of the easy-vqa package, 9,673 questions about 1,000 pictures, grouped by picture, under
1.5 MB. Needs Python alone; the package is found where pip put it, or given as an unpacked folder or
a wheel (pip download easy-vqa --no-deps)."""

import argparse
import importlib.util
import json
import sys
import zipfile
from pathlib import Path

TEST = "easy_vqa/data/test/"


def reader(package):
    """A function from a path inside the package to its bytes."""
    if package is None:
        found = importlib.util.find_spec("easy_vqa")
        if found is None:
            sys.exit("easy-vqa is not installed: pip install easy-vqa, or give --package")
        package = Path(found.origin).parent.parent
    package = Path(package)
    if package.is_file():
        wheel = zipfile.ZipFile(package)
        return wheel.read
    return lambda path: (package / path).read_bytes()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--package", help="folder that holds easy_vqa/, or a wheel")
    arguments = parser.parse_args()

    read = reader(arguments.package)
    by_image = {}
    for question, answer, image in json.loads(read(TEST + "questions.json")):
        by_image.setdefault(image, []).append({"prompt": question, "answer": answer})
    images = arguments.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "jobs.jsonl", "w", encoding="utf-8") as jobs:
        for image in sorted(by_image):
            name = f"{image:04d}.png"
            (images / name).write_bytes(read(f"{TEST}images/{image}.png"))
            for one in by_image[image]:
                one["kind"] = "yes or no" if one["answer"] in ("yes", "no") else "shape or color"
            job = {"id": name[:-4], "images": ["images/" + name], "questions": by_image[image]}
            jobs.write(json.dumps(job) + "\n")
    count = sum(len(questions) for questions in by_image.values())
    print(f"{count} questions about {len(by_image)} pictures in {arguments.out / 'jobs.jsonl'}")


if __name__ == "__main__":
    main()
