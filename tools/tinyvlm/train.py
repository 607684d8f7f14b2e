# train.py: trains TinyVLM on a GPU: the vision tower first, then longer and longer videos.
# SPDX-License-Identifier: Apache-2.0
"""Usage: train.py --data easy_vqa.npz --tokenizer tokenizer.json --out DIR --seconds 580
          [--resume DIR] [--vision-seconds 40] [--final]

Time-bounded; several runs continue one another with --resume.  The number of frames a video grows
by itself as answers become right.  --final lets the learning rate fall to zero at the end."""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import checkpoint
from data import EasyVqa, VideoQuestions
from net import TinyVlm
from questions import COLOR_NAMES, KINDS, VIDEO_KINDS
from render import Renderer

LADDER = [1, 2, 4, 8, 16, 32, 64]
TRAIN_SEED, EVAL_SEED = 1_000_000, 77  # evaluation seeds are below 1000, training above
QUESTIONS = {1: 8, 2: 8, 4: 16, 8: 24, 16: 32, 32: 48, 64: 64}


class PatchHeads(torch.nn.Module):
    """Reads shape, colour and frame number off every patch token; dropped after training."""

    widths = (len(KINDS), len(COLOR_NAMES), 10, 10, 3, 8)

    def __init__(self, dim):
        super().__init__()
        self.linear = torch.nn.Linear(dim, sum(self.widths))

    def loss(self, features, labels):
        """labels [N,6], -100 where unknown -> loss, accuracy of every label."""
        losses, hits = 0, []
        for i, part in enumerate(self.linear(features).float().split(self.widths, -1)):
            known = labels[:, i] >= 0
            target = labels[:, i, None].expand(-1, part.shape[1])
            loss = F.cross_entropy(
                part.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum"
            )
            losses = losses + loss / part.shape[1] / known.sum().clamp_min(1)
            right = (part.argmax(-1) == target).float().mean(1)
            hits.append((right * known).sum() / known.sum().clamp_min(1))
        return losses, torch.stack(hits)


def video_labels(batch):
    number = batch["number"].flatten()
    unknown = torch.full_like(number, -100)
    return torch.stack(
        [
            batch["kind"].flatten(),
            batch["color"].flatten(),
            number // 10,
            number % 10,
            unknown,
            unknown,
        ],
        -1,
    )


def answer_loss(logits, tokens, is_answer):
    """Mean loss of answer tokens, and which questions are wholly right [B,Q]."""
    logits, target, counted = logits[:, :, :-1], tokens[:, :, 1:], is_answer[:, :, 1:]
    loss = F.cross_entropy(logits.float().flatten(0, 2), target.flatten(), reduction="none")
    loss = (loss * counted.flatten()).sum() / counted.sum()
    right = ((logits.argmax(-1) == target) | ~counted).all(-1)
    return loss, right


class Trainer:
    def __init__(self, args):
        self.args = args
        self.start = time.time()
        self.device = torch.device(args.device)
        cuda = self.device.type == "cuda"
        torch.manual_seed(args.seed)
        torch.set_float32_matmul_precision("high")
        torch._dynamo.config.cache_size_limit = 64
        self.tokenizer = Tokenizer.from_file(args.tokenizer)
        self.net = TinyVlm(checkpoint.MODEL_SIZE).to(self.device)
        self.heads = PatchHeads(checkpoint.MODEL_SIZE["hidden"]).to(self.device)
        self.state = {"stage": 0, "steps": 0, "runs": 0, "vision_seconds": 0.0, "seconds": 0.0}
        if args.resume:
            weights = {}
            for path in sorted(Path(args.resume).glob("weights*.safetensors")):
                weights |= load_file(path)
            self.net.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("net.")})
            self.heads.load_state_dict(
                {k[6:]: v for k, v in weights.items() if k.startswith("heads.")}
            )
            self.state = json.loads((Path(args.resume) / "state.json").read_text())
            self.net.to(self.device)
        if cuda and not args.no_compile:
            self.net.compile_layers()
        seed = TRAIN_SEED + args.seed * 1000 + self.state["runs"]
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.renderer = Renderer(self.device)
        self.questions = VideoQuestions(self.tokenizer, self.device)
        self.easy = EasyVqa(args.data, self.tokenizer, self.device, "train")
        self.easy_test = EasyVqa(args.data, self.tokenizer, self.device, "test")
        if self.state.get("letters"):
            self.use_letters()
        slow = [p for n, p in self.net.named_parameters() if n.startswith("vision_tower")]
        fast = [p for n, p in self.net.named_parameters() if not n.startswith("vision_tower")]
        fast += list(self.heads.parameters())
        groups = []
        for params, scale in ((slow, args.vision_lr_scale), (fast, 1.0)):
            for decay in (True, False):
                part = [p for p in params if (p.dim() > 1) == decay]
                groups.append(
                    {"params": part, "weight_decay": 0.05 if decay else 0.0, "scale": scale}
                )
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=cuda)
        self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.log_lines = []

    def log(self, text):
        line = f"[{time.time() - self.start:6.1f}s] {text}"
        print(line, flush=True)
        self.log_lines.append(line)
        if self.args.out:
            (Path(self.args.out) / "log.txt").write_text("\n".join(self.log_lines) + "\n")

    def autocast(self):
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"
        )

    def update(self, lr, vision_scale=None):
        for group in self.optimizer.param_groups:
            scale = group["scale"]
            if vision_scale is not None and scale != 1.0:
                scale = vision_scale
            group["lr"] = lr * scale
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def render(self, batch):
        return self.renderer(
            batch["kind"].flatten(),
            batch["color"].flatten(),
            batch["number"].flatten(),
            self.generator,
        )

    def train_vision(self, seconds):
        """Every patch token learns to tell its picture's labels."""
        begin, step, n = time.time(), 0, self.args.frames
        while (elapsed := time.time() - begin) < seconds:
            with torch.no_grad():
                batch = self.questions.sample(n, 1, 1, self.generator, random_numbers=1.0)
                easy = self.easy.sample(n // 8, 1, self.generator)
                frames = torch.cat([self.render(batch), easy["frames"]])
                unknown = torch.full((n // 8, 4), -100, device=self.device)
                labels = torch.cat([video_labels(batch), torch.cat([unknown, easy["labels"]], -1)])
            with self.autocast():
                loss, hits = self.heads.loss(self.net.features(frames), labels)
            loss.backward()
            lr = 1.5e-3 * min(1, (step + 1) / 100) * min(1.0, 1.15 - elapsed / seconds)
            self.update(lr, vision_scale=1.0)
            step += 1
            if step % self.args.log_every == 0:
                self.log(
                    f"vision step {step} loss {loss.item():.3f} "
                    + " ".join(
                        f"{name} {v:.3f}"
                        for name, v in zip(
                            ("kind", "color", "tens", "ones", "easy-shape", "easy-color"),
                            hits.tolist(),
                        )
                    )
                )
        self.state["vision_seconds"] += time.time() - begin

    def use_letters(self):
        self.state["letters"] = True
        self.questions.use_letters()
        self.renderer.use_letters()

    def train_answers(
        self, seconds, ladder=None, random_numbers=0.45, hard=0.5, final=None, goal=None
    ):
        """Question answering; ladder: {frames: share of steps} instead of growing by itself;
        goal: stop when "frame" questions of the first of the ladder reach it."""
        args, begin, step = self.args, time.time(), 0
        final = args.final if final is None else final
        recent = {f: [] for f in LADDER}
        shown = time.time()
        saved = time.time()
        losses = []
        stage_begin = time.time()
        while (elapsed := time.time() - begin) < seconds:
            stage = self.state["stage"]
            # Mostly the longest videos of the stage, else any shorter ones.
            if stage == 0 or torch.rand(()).item() < 0.6:
                frames = LADDER[stage]
            else:
                frames = LADDER[int(torch.randint(max(0, stage - 3), stage, ()))]
            if ladder:
                at = torch.multinomial(torch.tensor(list(ladder.values())), 1).item()
                frames = list(ladder)[at]
            videos = max(1, args.frames // frames)
            with torch.no_grad():
                batch = self.questions.sample(
                    videos,
                    frames,
                    QUESTIONS[frames],
                    self.generator,
                    random_numbers=random_numbers,
                    hard=hard,
                )
                easy = self.easy.sample(args.frames // 8, 12, self.generator)
                pixels = torch.cat([self.render(batch), easy["frames"]])
            with self.autocast():
                features = self.net.features(pixels)
                n = videos * frames
                loss_patch, _ = self.heads.loss(features[:n, ::7], video_labels(batch))
                logits = self.net.decode(
                    features[:n].reshape(videos, -1, features.shape[-1]), batch["tokens"]
                )
                loss, right = answer_loss(logits, batch["tokens"], batch["is_answer"])
                logits = self.net.decode(features[n:], easy["tokens"])
                loss_easy, right_easy = answer_loss(logits, easy["tokens"], easy["is_answer"])
            (loss + 0.3 * loss_easy + 0.05 * loss_patch).backward()
            warm = min(1.0, (step + 1) / 200)
            left = 1 - elapsed / seconds
            fall = min(1.0, left / 0.55) if final else 1.0
            self.update(args.lr * warm * max(fall, 0.01))
            step += 1
            self.state["steps"] += 1
            if step % 10 == 0:
                keep = 0.99
                current = self.net.state_dict()
                torch._foreach_lerp_(list(self.average.values()), list(current.values()), 1 - keep)
            is_frame = batch["question"] == VIDEO_KINDS.index("frame")
            is_which = batch["question"] == VIDEO_KINDS.index("which")
            recent[frames].append(
                torch.stack(
                    [
                        right.float().mean(),
                        (right & is_frame).sum() / is_frame.sum().clamp_min(1),
                        (right & is_which).sum() / is_which.sum().clamp_min(1),
                        loss.detach(),
                    ]
                )
            )
            recent[frames] = recent[frames][-100:]
            losses.append(right_easy.float().mean())
            if goal and step % 20 == 0 and len(recent[next(iter(ladder))]) >= 40:
                reached = torch.stack(recent[next(iter(ladder))][-40:]).mean(0)[1].item()
                if reached > goal:
                    self.log(f"goal reached: {reached:.3f}")
                    break
            if step % 20 == 0 and not ladder:
                top = recent[LADDER[stage]]
                if len(top) >= 40:
                    mean = torch.stack(top[-40:]).mean(0).tolist()
                    waited = time.time() - stage_begin
                    good = mean[1] > args.advance and mean[2] > args.advance
                    long = waited > args.patience and mean[0] > 0.6
                    if (good or long) and stage < args.max_stage:
                        self.log(
                            f"advance from {LADDER[stage]} frames: all {mean[0]:.3f} "
                            f"frame {mean[1]:.3f} which {mean[2]:.3f} after {waited:.0f}s"
                        )
                        self.state["stage"] += 1
                        stage_begin = time.time()
            if time.time() - shown > args.show_seconds:
                shown = time.time()
                parts = []
                for f in LADDER:
                    if recent[f]:
                        m = torch.stack(recent[f][-40:]).mean(0).tolist()
                        parts.append(
                            f"{f}f all {m[0]:.2f} frame {m[1]:.2f} which {m[2]:.2f} "
                            f"loss {m[3]:.2f}"
                        )
                self.log(
                    f"step {step} ({step / elapsed:.1f}/s) easy "
                    f"{torch.stack(losses[-40:]).mean():.3f} | " + " | ".join(parts)
                )
            if time.time() - saved > 120:
                saved = time.time()
                self.save()
        self.state["seconds"] += time.time() - begin
        return torch.stack(recent[next(iter(ladder))][-40:]).mean(0)[1].item() if ladder else None

    def bind_numbers(self, seconds):
        """Short hard videos until both digits of a frame's number are used; letters if not."""
        self.net.make_previous_token_head()
        usual = self.questions.weights.clone()
        self.questions.weights[VIDEO_KINDS.index("frame")] += 0.5
        reached = self.train_answers(seconds, {4: 1.0}, 1.0, 1.0, final=False, goal=0.97)
        self.log(f"bind_numbers: frame {reached:.3f} at 4 hard frames")
        if reached < 0.76:
            self.use_letters()
            self.train_vision(20)
            reached = self.train_answers(50, {4: 1.0}, 1.0, 1.0, final=False, goal=0.97)
            self.log(f"with letters: frame {reached:.3f} at 4 hard frames")
        self.questions.weights = usual

    def save(self):
        if not self.args.out:
            return
        out = Path(self.args.out)
        out.mkdir(parents=True, exist_ok=True)
        tensors = {"net." + k: v for k, v in self.net.state_dict().items()}
        tensors |= {"heads." + k: v for k, v in self.heads.state_dict().items()}
        parts = [{}, {}, {}]
        for i, (name, value) in enumerate(tensors.items()):
            parts[i % 3][name] = value.detach().float().cpu().contiguous()
        for i, part in enumerate(parts):
            save_file(part, str(out / f"weights{i}.safetensors"))
        (out / "state.json").write_text(json.dumps(self.state))

    def save_model(self):
        """The weights as the Hugging Face checkpoint stores them."""
        if self.args.out:
            tensors = {
                k: v.detach().to(torch.bfloat16).cpu().contiguous()
                for k, v in self.net.state_dict().items()
            }
            save_file(
                tensors, str(Path(self.args.out) / "model.safetensors"), metadata={"format": "pt"}
            )

    @torch.no_grad()
    def evaluate(self, videos_of):
        """Exact-match accuracy (teacher-forced greedy) with controls, on held-out data."""
        was = self.generator
        self.generator = torch.Generator(self.device).manual_seed(EVAL_SEED)
        report = {"videos": {}}
        for frames, videos in videos_of.items():
            questions, chunk = 24, max(1, min(videos, self.args.frames // frames))
            rights = {c: [] for c in ("video", "no_image", "shuffled")}
            kinds = []
            for _ in range(-(-videos // chunk)):
                batch = self.questions.sample(chunk, frames, questions, self.generator)
                with self.autocast():
                    features = self.net.features(self.render(batch))
                    features = features.reshape(chunk, -1, features.shape[-1])
                    other = features.roll(1, 0)
                    if chunk == 1:
                        fresh = self.questions.sample(1, frames, 1, self.generator)
                        other = self.net.features(self.render(fresh)).reshape(features.shape)
                    for control, f in (
                        ("video", features),
                        ("no_image", None),
                        ("shuffled", other),
                    ):
                        logits = self.net.decode(f, batch["tokens"])
                        rights[control].append(
                            answer_loss(logits, batch["tokens"], batch["is_answer"])[1]
                        )
                kinds.append(batch["question"])
            kinds = torch.cat(kinds)
            entry = {"questions": kinds.numel(), "visual_tokens": frames * 256}
            for control, right in rights.items():
                right = torch.cat(right)
                entry[control] = {"all": right.float().mean().item()}
                for i, name in enumerate(VIDEO_KINDS):
                    if (kinds == i).any():
                        entry[control][name] = right[kinds == i].float().mean().item()
            entry["number_of"] = {n: int((kinds == i).sum()) for i, n in enumerate(VIDEO_KINDS)}
            report["videos"][str(frames)] = entry
            self.log(
                f"EVAL {frames} frames: "
                + json.dumps(
                    {
                        k: v if isinstance(v, int) else {a: round(b, 3) for a, b in v.items()}
                        for k, v in entry.items()
                        if k != "number_of"
                    }
                )
            )
        easy, rights = self.easy_test, {c: [] for c in ("image", "no_image", "shuffled")}
        indices = []
        for part in torch.arange(len(easy.images), device=self.device).split(200):
            rows = easy.by_image[part]
            tokens, is_answer = easy.tokens[rows.clamp_min(0)], easy.is_answer[rows.clamp_min(0)]
            with self.autocast():
                features = self.net.features(easy.images[part])
                for control, f in (
                    ("image", features),
                    ("no_image", None),
                    ("shuffled", features.roll(1, 0)),
                ):
                    logits = self.net.decode(f, tokens)
                    rights[control].append(answer_loss(logits, tokens, is_answer)[1][rows >= 0])
            indices.append(rows[rows >= 0])
        indices = torch.cat(indices).tolist()
        yes_no = torch.tensor([easy.answers[i] in ("yes", "no") for i in indices])
        entry = {"questions": len(indices), "visual_tokens": 256}
        for control, right in rights.items():
            right = torch.cat(right).cpu().float()
            entry[control] = {
                "all": right.mean().item(),
                "yes_no": right[yes_no].mean().item(),
                "shape_or_color": right[~yes_no].mean().item(),
            }
        report["images"] = entry
        self.log("EVAL images: " + json.dumps(entry))
        self.generator = was
        return report

    def run(self):
        args = self.args
        if self.state["vision_seconds"] < args.vision_seconds - 1:
            self.train_vision(args.vision_seconds - self.state["vision_seconds"])
            self.save()
        if args.bind_seconds:
            self.bind_numbers(args.bind_seconds)
            self.save()
        ladder = {16: 0.45, 8: 0.2, 4: 0.1, 32: 0.25} if args.final else None
        self.train_answers(
            args.seconds - (time.time() - self.start) - args.eval_seconds, ladder, 0.4, 0.4
        )
        self.state["runs"] += 1
        self.save()
        if args.average:
            self.net.load_state_dict(self.average)
        # What is evaluated is what is stored: weights rounded to bfloat16.
        for p in self.net.parameters():
            p.data = p.data.to(torch.bfloat16).float()
        self.save_model()
        if args.no_eval:
            return
        report = self.evaluate({f: n for f, n in zip((4, 8, 16, 32, 64), args.eval_videos) if n})
        if args.out:
            (Path(args.out) / "report.json").write_text(json.dumps(report, indent=1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out")
    parser.add_argument("--resume")
    parser.add_argument("--seconds", type=float, default=580)
    parser.add_argument("--vision-seconds", type=float, default=40)
    parser.add_argument("--eval-seconds", type=float, default=30)
    parser.add_argument("--bind-seconds", type=float, default=0)
    parser.add_argument("--eval-videos", type=int, nargs=5, default=[64, 64, 64, 32, 32])
    parser.add_argument("--frames", type=int, default=256, help="video frames a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--vision-lr-scale", type=float, default=0.25)
    parser.add_argument("--advance", type=float, default=0.92)
    parser.add_argument("--patience", type=float, default=150)
    parser.add_argument("--max-stage", type=int, default=len(LADDER) - 1)
    parser.add_argument("--show-seconds", type=float, default=20)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--final", action="store_true")
    parser.add_argument("--average", action="store_true", help="ship averaged weights")
    parser.add_argument("--no-eval", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
    Trainer(args).run()


if __name__ == "__main__":
    main()
