"""Exact training on the padding tokens of StableDiffusion3Pipeline at the price of one.

Without a T5 encoder that pipeline appends ``max_sequence_length`` (256 by default) all-zero text
tokens. Text tokens of an MM-DiT have no positions, so these stay identical to each other in every
layer, and n equal keys in a softmax are one key whose logit is raised by log n. Training therefore
appends one zero token and adds ``log n`` to its logit: the same function on 97 tokens
instead of 352.
"""

import math

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F


class CountedLastToken:
    """Joint attention in which the last text token counts ``count`` times."""

    def __init__(self) -> None:
        self.count = 1

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
    ) -> tuple[Tensor, Tensor]:
        batch, images, _ = hidden_states.shape

        def heads(of_image: Tensor, of_text: Tensor) -> Tensor:
            joined = torch.cat([of_image, of_text], dim=1)
            return joined.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states), attn.add_q_proj(encoder_hidden_states))
        key = heads(attn.to_k(hidden_states), attn.add_k_proj(encoder_hidden_states))
        value = heads(attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states))
        bias = query.new_zeros(key.shape[2])
        bias[-1] = math.log(self.count)
        mixed = F.scaled_dot_product_attention(query, key, value, bias.expand(batch, 1, 1, -1))
        mixed = mixed.transpose(1, 2).flatten(2)
        image, text = mixed[:, :images], mixed[:, images:]
        image = attn.to_out[1](attn.to_out[0](image))
        return image, text if attn.context_pre_only else attn.to_add_out(text)


def count_last_token(transformer: SD3Transformer2DModel) -> CountedLastToken:
    """Install one :class:`CountedLastToken` in every block and return it."""
    processor = CountedLastToken()
    transformer.set_attn_processor(processor)
    return processor
