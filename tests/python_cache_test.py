# vkv.Cache in generate(): greedy answers are those of transformers' own cache, for models of the
# LLaVA, Qwen2.5-VL and InternVL types; roles come from the image's tokens; errors say what is
# wrong.
# SPDX-License-Identifier: Apache-2.0
import sys
import unittest

try:
    import torch
    import transformers
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import vkv

IMAGE = 120  # the placeholder's token id
TEXT = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # logits far enough apart that 16-bit K and V change no argmax
}
PIXELS = 32
DRAM = 64 << 20


def llava():
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=PIXELS, patch_size=4, projection_dim=32,
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_id=IMAGE
    )
    model = transformers.LlavaForConditionalGeneration(config)
    return model, 64, {"pixel_values": torch.randn(1, 3, PIXELS, PIXELS)}


def internvl():
    vision = transformers.InternVLVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=[PIXELS, PIXELS], patch_size=[4, 4],
    )
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=transformers.Qwen2Config(**TEXT), image_token_id=IMAGE
    )
    model = transformers.InternVLForConditionalGeneration(config)
    return model, 16, {"pixel_values": torch.randn(1, 3, PIXELS, PIXELS)}


def qwen2_5_vl():
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
            "out_hidden_size": TEXT["hidden_size"], "fullatt_block_indexes": [1],
            "patch_size": 4, "window_size": 16,
        },
        image_token_id=IMAGE, video_token_id=121, vision_start_token_id=122,
        vision_end_token_id=123,
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    side = 16  # patches; 2 x 2 make a token
    pixels = torch.randn(side * side, 3 * 2 * 4 * 4)
    return model, side * side // 4, {
        "pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]])
    }


MODELS = {"llava": llava, "internvl": internvl, "qwen2_5_vl": qwen2_5_vl}


def make(name):
    """A model in eval mode, and inputs: some text, an image, a question."""
    torch.manual_seed(3)
    model, image_tokens, pixels = MODELS[name]()
    question = torch.randint(3, 100, (1, 24))
    image = torch.full((1, image_tokens), IMAGE)
    frame = [torch.tensor([[122]]), image, torch.tensor([[123]])]
    ids = torch.cat([torch.tensor([[1, 5]]), *frame, question], dim=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
    if name == "qwen2_5_vl":
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    return model.eval(), inputs, image_tokens


def generate(model, inputs, cache=None, tokens=24):
    return model.generate(
        **inputs, max_new_tokens=tokens, do_sample=False, past_key_values=cache
    )[:, inputs["input_ids"].shape[1]:]


class CacheTest(unittest.TestCase):
    def test_greedy_answers_are_those_of_transformers_cache(self):
        for name in MODELS:
            with self.subTest(name):
                model, inputs, image_tokens = make(name)
                expected = generate(model, inputs)
                self.assertGreater(len(set(expected[0].tolist())), 4, "an answer of one word")
                cache = vkv.Cache(model, preset="exact", dram_bytes_max=DRAM)
                self.assertEqual(generate(model, inputs, cache).tolist(), expected.tolist())
                stats = cache.sequence_stats()
                self.assertEqual(stats["visual"]["token_count"], image_tokens)
                self.assertEqual(
                    sum(role["token_count"] for role in stats.values()), cache.get_seq_length()
                )
                # The model goes on with transformers' own cache as before.
                self.assertEqual(generate(model, inputs).tolist(), expected.tolist())

    def test_codes_instead_of_16_bit(self):
        model, inputs, image_tokens = make("llava")
        cache = vkv.Cache(model, preset="visual2", recent_tokens=16, dram_bytes_max=DRAM)
        self.assertEqual(generate(model, inputs, cache).shape, (1, 24))
        self.assertIn("cpu", cache.engine())
        self.assertGreater(cache.stats()["sealed_token_count"], image_tokens)
        self.assertLess(cache.stats()["dram_bytes_peak"], DRAM)

    def test_bfloat16_tensors(self):
        model, inputs, _ = make("llava")
        model = model.to(torch.bfloat16)
        cache = vkv.Cache(model, dram_bytes_max=DRAM)
        with torch.no_grad():
            ours = model(**inputs, past_key_values=cache).logits[0, -1].float()
            expected = model(**inputs).logits[0, -1].float()
        self.assertLess((ours - expected).norm() / expected.norm(), 0.05)

    def test_rows_of_a_batch_are_sequences(self):
        model, inputs, _ = make("llava")
        other = inputs["input_ids"].clone()
        other[0, -5:] = torch.tensor([7, 8, 9, 10, 11])
        inputs = {
            "input_ids": torch.cat([inputs["input_ids"], other]),
            "attention_mask": torch.ones(2, other.shape[1], dtype=torch.long),
            "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1),
        }
        cache = vkv.Cache(model, dram_bytes_max=DRAM)
        expected = generate(model, inputs)
        self.assertNotEqual(expected[0].tolist(), expected[1].tolist())
        self.assertEqual(generate(model, inputs, cache).tolist(), expected.tolist())

    def test_cropped_tokens_leave_no_trace(self):
        model, inputs, _ = make("internvl")
        cache = vkv.Cache(model, dram_bytes_max=DRAM)
        draft = torch.tensor([[40, 41, 42]])
        with torch.no_grad():
            model(**inputs, past_key_values=cache)
            length = cache.get_seq_length()
            first = model(input_ids=draft, past_key_values=cache).logits
            model(input_ids=torch.tensor([[50, 51]]), past_key_values=cache)
            cache.crop(5)
            self.assertEqual(cache.get_seq_length(), length)
            again = model(input_ids=draft, past_key_values=cache).logits
        self.assertTrue(torch.equal(first, again))
        with self.assertRaisesRegex(ValueError, "cannot drop"):
            cache.crop(10000)
        cache.reset()
        self.assertEqual(cache.get_seq_length(), 0)
        self.assertEqual(cache.stats()["sequence_count"], 0)

    def test_what_cannot_be_done_is_said(self):
        model, inputs, _ = make("llava")
        padded = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
        padded["attention_mask"][0, 0] = 0
        with self.assertRaisesRegex(NotImplementedError, "padding"):
            generate(model, padded, vkv.Cache(model, dram_bytes_max=DRAM))
        with self.assertRaisesRegex(NotImplementedError, "beam|rows"):
            model.generate(
                **inputs, num_beams=2, max_new_tokens=4,
                past_key_values=vkv.Cache(model, dram_bytes_max=DRAM),
            )
        with self.assertRaisesRegex(ValueError, "there are exact safe"):
            generate(model, inputs, vkv.Cache(model, preset="none", dram_bytes_max=DRAM))
        with self.assertRaisesRegex(MemoryError, "dram budget of 1000 bytes"):
            generate(model, inputs, vkv.Cache(model, dram_bytes_max=1000))
        with self.assertRaisesRegex(ValueError, "dram_bytes is no option"):
            vkv.Cache(model, dram_bytes=1)
        sliding = transformers.Qwen2Config(**TEXT, use_sliding_window=True, max_window_layers=1)
        with self.assertRaisesRegex(NotImplementedError, "sliding_attention"):
            vkv.Cache(transformers.Qwen2ForCausalLM(sliding))
        # The model is as it was.
        self.assertEqual(generate(model, inputs).shape, (1, 24))

    def test_tensors_that_do_not_fit_are_refused(self):
        cache = vkv.KvCache(layers=1, q_heads=4, kv_heads=2, head_dim=64, dram_bytes_max=DRAM)
        sequence = cache.create_sequence()
        roles = torch.zeros(3, dtype=torch.uint8)
        right = torch.randn(3, 2, 64)
        cache.append(0, sequence, right, right, roles)
        with self.assertRaisesRegex(ValueError, "other elements"):
            cache.append(0, sequence, right.half(), right, roles)
        with self.assertRaisesRegex(ValueError, r"v is \[3, 1, 64\]; it ends with \[3, 2, 64\]"):
            cache.append(0, sequence, right, right[:, :1].contiguous(), roles)
        with self.assertRaises(TypeError):  # strides: nothing is copied behind one's back
            cache.append(0, sequence, torch.randn(2, 3, 64).transpose(0, 1), right, roles)
        with self.assertRaises(TypeError):
            cache.append(0, sequence, right, right, roles.to(torch.int64))
        out = torch.zeros(1, 3, 4, 64)
        cache.attend(0, [sequence], torch.randn(1, 3, 4, 64), out, False)
        self.assertGreater(out.abs().sum(), 0)  # in place
        with self.assertRaisesRegex(ValueError, "with 2 sequences"):
            cache.attend(0, [sequence, sequence], torch.randn(1, 3, 4, 64), out, False)
        with self.assertRaises(KeyError):
            cache.erase(99)


if __name__ == "__main__":
    unittest.main()
