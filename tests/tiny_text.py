"""Tiny tokenizers and text encoders with random weights, built in code."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import WIDTH, _text_config
from tests.tiny import tokenizer as clip_tokenizer

LENGTH = 16
START, END, PAD = "<s>", "</s>", "<pad>"
CHAT = (
    "{% for message in messages %}"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}"
    "</s>{% endfor %}"
)


def tokenizer(template: str, length: int = 512, side: str = "right") -> PreTrainedTokenizerFast:
    """One token per byte, framed as `template` says, padded on `side`; chats are plain text."""
    tokens = [PAD, START, END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocab = {token: index for index, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    frame = [(token, vocab[token]) for token in (PAD, START, END)]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=frame)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=length,
        padding_side=side,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=CHAT,
    )


VOCABULARY = len(tokenizer("$A"))


def clip(length: int = LENGTH, kind: str = "CLIPTextModel") -> dict[str, Any]:
    """CLIP tokenizer and text model for prompts of up to `length` tokens."""
    words = clip_tokenizer()
    config = _text_config(words, max_position_embeddings=length)
    return {"tokenizer": words, "text_encoder": getattr(transformers, kind)(config)}


def t5(kind: str = "T5") -> dict[str, Any]:
    """T5 tokenizer, one token per ASCII character, and T5 (or UMT5) encoder."""
    pieces = [PAD, END, "<unk>", "▁", *map(chr, range(33, 127))]
    words = transformers.T5Tokenizer(
        vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=LENGTH
    )
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(words), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )
    return {
        "tokenizer": words,
        "text_encoder": getattr(transformers, f"{kind}EncoderModel")(config),
    }


LANGUAGE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def language(kind: str, part: str = "Model") -> dict[str, Any]:
    """Tokenizer and decoder-only language model of a transformers family."""
    config = getattr(transformers, f"{kind}Config")(**LANGUAGE)
    return {
        "tokenizer": tokenizer(f"{START} $A {END}", side="left" if kind == "Glm" else "right"),
        "text_encoder": getattr(transformers, f"{kind}{part}")(config),
    }


def qwen_vl() -> dict[str, Any]:
    """Tokenizer and Qwen2.5-VL, of which only the language half is ever called."""
    text = LANGUAGE | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision | {"out_hidden_size": WIDTH}
    )
    return {
        "tokenizer": tokenizer("$A"),
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config),
    }


def mistral() -> dict[str, Any]:
    """Tokenizer and Mistral 3, of which only the language half is ever called."""
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = transformers.Mistral3Config(
        text_config=LANGUAGE | {"model_type": "mistral"}, vision_config=vision
    )
    return {
        "tokenizer": tokenizer("$A"),
        "text_encoder": transformers.Mistral3ForConditionalGeneration(config),
    }


def bert() -> dict[str, Any]:
    """Tokenizer and BERT."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
    )
    return {
        "tokenizer": tokenizer(f"{START} $A {END}", 77),
        "text_encoder": transformers.BertModel(config),
    }


def clap() -> dict[str, Any]:
    """RoBERTa tokenizer, CLAP and its feature extractor; only the text half is ever called."""
    tokens = [START, PAD, END, "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = transformers.RobertaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        model_max_length=LENGTH,
    )
    text = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "projection_dim": 16,
    }
    audio = {
        "spec_size": 8,
        "window_size": 4,
        "num_mel_bins": 8,
        "depths": [1],
        "num_attention_heads": [1],
        "num_hidden_layers": 1,
        "hidden_size": 96,
        "patch_size": 2,
        "patch_stride": 2,
        "projection_dim": 16,
    }
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
    return {
        "tokenizer": words,
        "text_encoder": transformers.ClapModel(config),
        "feature_extractor": transformers.ClapFeatureExtractor(feature_size=8),
    }


def speaker() -> dict[str, Any]:
    """GPT-2 and vocoder of AudioLDM 2."""
    language_model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=8,
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=64,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    vocoder = transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(
            model_in_dim=8,
            upsample_initial_channel=8,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
            normalize_before=False,
        )
    )
    return {"language_model": language_model, "vocoder": vocoder}
