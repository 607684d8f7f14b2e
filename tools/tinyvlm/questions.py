# questions.py: words, questions and prompt format shared by the TinyVLM tools.
# SPDX-License-Identifier: Apache-2.0
"""Everything textual about TinyVLM: object vocabulary, question templates, prompt format.

Prompt format (nothing is added by the tokenizer itself):

    <s><image>...<image>\nQuestion: {question} Answer:

with one ``<image>`` for each image or video frame.  The model answers with a leading
space and ends with ``</s>``.
"""

SHAPES = ["circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
KINDS = SHAPES + DIGITS
TENS_LETTERS = "BCEFGHJKLP"  # first character of a frame's label, if letters are used for it
COLORS = {
    "red": (225, 30, 30),
    "green": (25, 165, 45),
    "blue": (40, 70, 230),
    "yellow": (240, 225, 35),
    "purple": (140, 40, 170),
    "orange": (245, 135, 15),
    "cyan": (50, 215, 225),
    "white": (245, 245, 245),
}
COLOR_NAMES = list(COLORS)

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
PAD_ID, BOS_ID, EOS_ID, IMAGE_ID = 0, 1, 2, 3
VOCAB_SIZE = 512

VIDEO_TEMPLATES = {
    "frame": "What is in frame {n}?",
    "frame_color": "What color is in frame {n}?",
    "frame_shape": "What shape is in frame {n}?",
    "which": "Which frame shows the {color} {kind}?",
    "after": "What comes right after the {color} {kind}?",
    "before": "What comes right before the {color} {kind}?",
    "count_color": "How many frames show {color}?",
    "count_kind": "How many frames show a {kind}?",
    "exists": "Does any frame show a {color} {kind}?",
}
VIDEO_KINDS = list(VIDEO_TEMPLATES)


def build_prompt(question, num_images):
    """The full prompt text for a question over num_images images (or video frames)."""
    images = IMAGE * num_images + "\n" if num_images else ""
    return f"{BOS}{images}Question: {question} Answer:"


def question_suffix(question):
    """The part of the prompt after the last <image>."""
    return f"\nQuestion: {question} Answer:"


def frame_name(n):
    return f"{n:02d}"
