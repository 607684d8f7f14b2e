# data.py: makes TinyVLM's training and evaluation batches: labelled videos and easy-vqa images.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch
import torch.nn.functional as F

from questions import (
    COLOR_NAMES,
    EOS_ID,
    KINDS,
    PAD_ID,
    TENS_LETTERS,
    VIDEO_KINDS,
    VIDEO_TEMPLATES,
    question_suffix,
)

LENGTH = 20  # tokens of a question block: suffix, answer and </s>, padded
TENS, ONES, COLOR, KIND, A_TENS, A_ONES, A_COLOR, A_KIND, DIGIT, YES = range(10)
ANSWERS = {
    "frame": [A_COLOR, A_KIND],
    "frame_color": [A_COLOR],
    "frame_shape": [A_KIND],
    "which": ["space", A_TENS, A_ONES],
    "count_color": ["space", DIGIT],
    "count_kind": ["space", DIGIT],
    "exists": [YES],
    "after": ["space", A_TENS, A_ONES, A_COLOR, A_KIND],
    "before": ["space", A_TENS, A_ONES, A_COLOR, A_KIND],
}
WEIGHTS = {
    "frame": 0.26,
    "frame_color": 0.08,
    "frame_shape": 0.1,
    "which": 0.2,
    "after": 0.08,
    "before": 0.08,
    "count_color": 0.06,
    "count_kind": 0.06,
    "exists": 0.08,
}


def single(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert len(ids) == 1, text
    return ids[0]


class VideoQuestions:
    """Samples videos' labels and their questions as token blocks, on the device."""

    def __init__(self, tokenizer, device):
        self.device = device
        table = torch.full((len(VIDEO_KINDS), LENGTH), PAD_ID)
        start = torch.zeros(len(VIDEO_KINDS), dtype=torch.long)
        end = torch.zeros(len(VIDEO_KINDS), dtype=torch.long)
        for row, kind in enumerate(VIDEO_KINDS):
            text = question_suffix(VIDEO_TEMPLATES[kind].format(n="96", color="red", kind="star"))
            slots = {
                single(tokenizer, "9"): TENS,
                single(tokenizer, "6"): ONES,
                single(tokenizer, " red"): COLOR,
                single(tokenizer, " star"): KIND,
            }
            codes = [-1 - slots[i] if i in slots else i for i in tokenizer.encode(text).ids]
            start[row] = len(codes)
            space = single(tokenizer, " ")
            codes += [space if a == "space" else -1 - a for a in ANSWERS[kind]] + [EOS_ID]
            end[row] = len(codes)
            assert len(codes) <= LENGTH
            table[row, : len(codes)] = torch.tensor(codes)
        self.table, self.start, self.end = table.to(device), start.to(device), end.to(device)
        self.digit_ids = torch.tensor([single(tokenizer, str(i)) for i in range(10)]).to(device)
        self.tens_ids = self.digit_ids
        self.letter_ids = torch.tensor([single(tokenizer, c) for c in TENS_LETTERS]).to(device)
        self.color_ids = torch.tensor([single(tokenizer, " " + c) for c in COLOR_NAMES]).to(device)
        self.kind_ids = torch.tensor([single(tokenizer, " " + k) for k in KINDS]).to(device)
        self.yes_ids = torch.tensor([single(tokenizer, " no"), single(tokenizer, " yes")]).to(
            device
        )
        self.weights = torch.tensor([WEIGHTS[k] for k in VIDEO_KINDS]).to(device)

    def use_letters(self):
        self.tens_ids = self.letter_ids

    def sample(self, videos, frames, questions, generator, random_numbers=0.0, hard=0.0):
        """Labels of videos and questions about them.

        random_numbers: share of videos whose frame numbers are in no order;
        hard: share with few colours and kinds, and (if in no order) few last digits of the
        numbers, so that neither half of "red star" or of "47" is enough to find a frame."""
        dev, objects = self.device, len(COLOR_NAMES) * len(KINDS)

        def rand(*shape):
            return torch.rand(*shape, generator=generator, device=dev)

        def randint(high, *shape):
            return (rand(*shape) * high).long().clamp_max(high - 1)

        # Distinct objects, some colours and kinds favoured so that counts differ.
        score = -torch.log(-torch.log(rand(videos, objects).clamp(1e-6, 1 - 1e-6)))
        hard = rand(videos, 1) < hard
        skew = torch.where(hard[..., None], 4.0, rand(videos, 2, 1) * 2)
        bias_color = torch.randn(videos, len(COLOR_NAMES), 1, generator=generator, device=dev)
        bias_kind = torch.randn(videos, 1, len(KINDS), generator=generator, device=dev)
        score = score + (bias_color * skew[:, :1] + bias_kind * skew[:, 1:]).flatten(1)
        order = score.argsort(-1, descending=True)
        # Shuffled in time: else the favoured come first.
        order[:, :frames] = order[:, :frames].gather(1, rand(videos, frames).argsort(-1))
        color, kind = order // len(KINDS), order % len(KINDS)
        zero_based = rand(videos, 1) < 0.5
        first = torch.where(zero_based, 0, randint(101 - frames, videos, 1))
        number = first + torch.arange(frames, device=dev)
        unordered = rand(videos, 1) < random_numbers
        favoured = (rand(videos, 10) + 0.3 * (rand(videos, 10) < 0.3)).repeat(1, 10)
        draw = rand(videos, 100) + 2 * favoured * hard
        number = torch.where(unordered, draw.argsort(-1, descending=True)[:, :frames], number)
        number = torch.where(unordered, number.gather(1, rand(videos, frames).argsort(-1)), number)

        q = torch.multinomial(
            self.weights.expand(videos, -1), questions, replacement=True, generator=generator
        )
        target = randint(frames, videos, questions)
        after, before = VIDEO_KINDS.index("after"), VIDEO_KINDS.index("before")
        neighbour = (q == after) | (q == before)
        if frames == 1:
            q = torch.where(neighbour, VIDEO_KINDS.index("which"), q)
        else:
            q = torch.where(neighbour & unordered, VIDEO_KINDS.index("frame"), q)
            target = torch.where(q == after, target.clamp_max(frames - 2), target)
            target = torch.where(q == before, target.clamp_min(1), target)
        step = (q == after).long() - (q == before).long()
        if frames == 1:
            step = step * 0
        answer = target + step
        present = rand(videos, questions) < 0.5
        absent = frames + randint(objects - frames, videos, questions)
        exists = q == VIDEO_KINDS.index("exists")
        asked = torch.where(exists & ~present, absent, target)
        asked_color, asked_kind = color.gather(1, asked), kind.gather(1, asked)
        # Half of the counting questions ask for anything, half for something that is there.
        counting_color = q == VIDEO_KINDS.index("count_color")
        counting_kind = q == VIDEO_KINDS.index("count_kind")
        loose = rand(videos, questions) < 0.4
        asked_color = torch.where(
            counting_color & loose, randint(len(COLOR_NAMES), videos, questions), asked_color
        )
        asked_kind = torch.where(
            counting_kind & loose, randint(len(KINDS), videos, questions), asked_kind
        )
        color, kind = color[:, :frames], kind[:, :frames]
        count = torch.where(
            counting_color,
            (color[:, None] == asked_color[..., None]).sum(-1),
            (kind[:, None] == asked_kind[..., None]).sum(-1),
        )
        too_many = (counting_color | counting_kind) & (count > 9)
        q = torch.where(too_many, VIDEO_KINDS.index("frame"), q)

        n_asked, n_answer = number.gather(1, target), number.gather(1, answer)
        values = torch.stack(
            [
                self.tens_ids[n_asked // 10],
                self.digit_ids[n_asked % 10],
                self.color_ids[asked_color],
                self.kind_ids[asked_kind],
                self.tens_ids[n_answer // 10],
                self.digit_ids[n_answer % 10],
                self.color_ids[color.gather(1, answer)],
                self.kind_ids[kind.gather(1, answer)],
                self.digit_ids[count.clamp_max(9)],
                self.yes_ids[present.long()],
            ],
            -1,
        )
        codes = self.table[q]
        tokens = torch.where(codes >= 0, codes, values.gather(-1, (-1 - codes).clamp_min(0)))
        place = torch.arange(LENGTH, device=dev)
        is_answer = (place >= self.start[q][..., None]) & (place < self.end[q][..., None])
        return {
            "color": color,
            "kind": kind,
            "number": number,
            "tokens": tokens,
            "is_answer": is_answer,
            "question": q,
        }

    def to_text(self, batch, video, question, tokenizer):
        """(prompt text, answer text) of one sampled question."""
        ids = batch["tokens"][video, question].tolist()
        row = int(batch["question"][video, question])
        a, b = int(self.start[row]), int(self.end[row])
        text = tokenizer.decode(ids[:a])
        return (
            text.removeprefix("\nQuestion: ").removesuffix(" Answer:"),
            tokenizer.decode(ids[a : b - 1]).strip(),
        )


class EasyVqa:
    """easy-vqa from a packed file, with one block of tokens a question."""

    def __init__(self, path, tokenizer, device, split):
        pack = np.load(path)
        self.device = device
        small = torch.from_numpy(pack[f"{split}_images"]).permute(0, 3, 1, 2)
        big = torch.cat(
            [
                F.interpolate(
                    part.to(device).float(), size=(128, 128), mode="bicubic", antialias=True
                )
                .clamp(0, 255)
                .round()
                .to(torch.uint8)
                for part in small.split(500)
            ]
        )
        self.images = big
        questions, answers = pack[f"{split}_questions"], pack[f"{split}_answers"]
        self.image_of = torch.from_numpy(pack[f"{split}_image_of"].astype(np.int64)).to(device)
        cache, rows = {}, []
        for q, a in zip(pack["question_texts"][questions], pack["answer_texts"][answers]):
            if (q, a) not in cache:
                head = tokenizer.encode(question_suffix(str(q))).ids
                ids = head + tokenizer.encode(" " + str(a)).ids + [EOS_ID]
                assert len(ids) <= LENGTH, q
                cache[q, a] = (ids + [PAD_ID] * (LENGTH - len(ids)), len(head), len(ids))
            rows.append(cache[q, a])
        self.tokens = torch.tensor([r[0] for r in rows]).to(device)
        place = torch.arange(LENGTH)
        start, end = torch.tensor([r[1] for r in rows]), torch.tensor([r[2] for r in rows])
        self.is_answer = ((place >= start[:, None]) & (place < end[:, None])).to(device)
        self.answers = [str(pack["answer_texts"][a]) for a in answers]
        self.texts = [str(pack["question_texts"][q]) for q in questions]
        # Questions of each image as rows of indices, -1 where there are no more.
        lists = [[] for _ in range(len(small))]
        for i, image in enumerate(pack[f"{split}_image_of"]):
            lists[image].append(i)
        width = max(len(x) for x in lists)
        self.by_image = torch.tensor([x + [-1] * (width - len(x)) for x in lists]).to(device)
        self.num_questions = torch.tensor([len(x) for x in lists]).to(device)
        self.labels = self.image_labels().to(device)

    def image_labels(self):
        """(shape, colour) of each image as far as questions and answers tell, -100 if not."""
        shapes = ["circle", "rectangle", "triangle"]
        colors = ["black", "gray", "red", "blue", "green", "yellow", "brown", "teal"]
        labels = torch.full((len(self.images), 2), -100)
        for text, answer, image in zip(self.texts, self.answers, self.image_of.tolist()):
            words = text.rstrip("?").split()
            negated = "not" in words or "no" in words
            said = [answer] if answer not in ("yes", "no") else []
            if (answer == "yes") != negated and answer in ("yes", "no") or said:
                said = said + words
            for word in said:
                if word in shapes:
                    labels[image, 0] = shapes.index(word)
                if word in colors:
                    labels[image, 1] = colors.index(word)
        return labels

    def sample(self, images, questions, generator):
        dev = self.device
        pick = torch.randint(len(self.images), (images,), generator=generator, device=dev)
        column = torch.rand(images, questions, generator=generator, device=dev)
        column = (column * self.num_questions[pick][:, None]).long()
        question = (
            self.by_image[pick][:, None]
            .expand(-1, questions, -1)
            .gather(2, column[..., None])[..., 0]
        )
        frames = self.images[pick]
        # Mirrored and moved a little: the labels stay true.
        flip = torch.rand(images, 2, generator=generator, device=dev) < 0.5
        frames = torch.where(flip[:, 0, None, None, None], frames.flip(3), frames)
        frames = torch.where(flip[:, 1, None, None, None], frames.flip(2), frames)
        return {
            "frames": frames,
            "tokens": self.tokens[question],
            "is_answer": self.is_answer[question],
            "labels": self.labels[pick],
        }


def pack_easy_vqa(path):
    """Packs the easy_vqa package's images and questions into one file."""
    import easy_vqa
    from PIL import Image

    out, texts, answer_texts = {}, [], []

    def index(items, item):
        if item not in items:
            items.append(item)
        return items.index(item)

    for split in ("train", "test"):
        q, a, image = getattr(easy_vqa, f"get_{split}_questions")()
        paths = getattr(easy_vqa, f"get_{split}_image_paths")()
        out[f"{split}_images"] = np.stack(
            [np.array(Image.open(paths[i]).convert("RGB")) for i in range(len(paths))]
        )
        out[f"{split}_questions"] = np.array([index(texts, x) for x in q], np.int16)
        out[f"{split}_answers"] = np.array([index(answer_texts, x) for x in a], np.int16)
        out[f"{split}_image_of"] = np.array(image, np.int16)
    np.savez_compressed(
        path, question_texts=np.array(texts), answer_texts=np.array(answer_texts), **out
    )


if __name__ == "__main__":
    import sys

    pack_easy_vqa(sys.argv[1])
