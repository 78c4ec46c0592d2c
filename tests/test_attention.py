"""Attention equals torch's own, outputs and gradients; masks hide, positions tell order."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seqcourse.attention import (
    AdditiveScore,
    ConcatScore,
    DotScore,
    GeneralScore,
    LearnedPositions,
    MultiHeadAttention,
    RotaryPositions,
    SinusoidalPositions,
    attend,
    attend_fused,
    attention_weights,
    causal_mask,
    padding_mask,
    sinusoids,
)

B, T, S, D, N = 3, 5, 7, 12, 4
LENGTHS = torch.tensor([7, 2, 4])
EXACT = {"rtol": 0, "atol": 1e-10}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()


def masks(queries: int = T, keys: int = S) -> dict[str, torch.Tensor | None]:
    draw = torch.Generator().manual_seed(5)
    mixed = torch.rand(B, queries, keys, generator=draw) < 0.5
    mixed[..., 0] = True
    return {
        "none": None,
        "causal": causal_mask(queries, keys),
        "padding": padding_mask(LENGTHS, keys),
        "both": causal_mask(queries, keys) & padding_mask(LENGTHS, keys),
        "mixed": mixed,
    }


def gradients(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.cos(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    return list(torch.autograd.grad((output * weights).sum(), inputs, retain_graph=True))


# --- masks -------------------------------------------------------------------------------------------


def test_causal_mask_lets_the_last_queries_see_the_cache():
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]
    with pytest.raises(ValueError, match="5 queries and 4 keys"):
        causal_mask(5, 4)


def test_padding_mask_is_true_for_real_positions():
    assert padding_mask(torch.tensor([1, 3])).tolist() == [[[True, False, False]], [[True, True, True]]]
    assert padding_mask(torch.tensor([1]), 2).shape == (1, 1, 2)


# --- scaled dot product --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("ours", ["readable", "fused"])
def test_attend_equals_torch(kind, ours):
    inputs = [normal(B, T, D), normal(B, S, D, seed=1), normal(B, S, 6, seed=2)]
    mask = masks()[kind]
    output = attend(*inputs, mask)[0] if ours == "readable" else attend_fused(*inputs, mask)
    theirs = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    torch.testing.assert_close(output, theirs, **EXACT)
    for a, b in zip(gradients(output, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def with_blind_rows(mask: torch.Tensor | None) -> torch.Tensor:
    """The same mask, but two queries may look nowhere."""
    mask = torch.ones(B, T, S, dtype=torch.bool) if mask is None else mask.expand(B, T, S).clone()
    mask[1, 2] = mask[2, 0] = False
    return mask


def test_a_mask_of_keys_alone_is_the_same_for_every_query():
    query, key, value = (torch.randn(2, n, 4, dtype=torch.float64) for n in (3, 5, 5))
    keys = torch.tensor([True, False, True, True, False])
    expected, weights = attend(query, key, value, keys)
    torch.testing.assert_close(attend_fused(query, key, value, keys), expected, rtol=0, atol=1e-12)
    assert (weights[..., ~keys] == 0).all()


@pytest.mark.parametrize("blind", [True, False])
@pytest.mark.parametrize("kind", masks())
def test_fused_equals_readable_for_every_mask(kind, blind):
    inputs = [normal(B, T, D), normal(B, S, D, seed=1), normal(B, S, 6, seed=2)]
    mask = with_blind_rows(masks()[kind]) if blind else masks()[kind]
    output, fused = attend(*inputs, mask)[0], attend_fused(*inputs, mask)
    torch.testing.assert_close(fused, output, **EXACT)
    for a, b in zip(gradients(fused, inputs), gradients(output, inputs), strict=True):
        torch.testing.assert_close(a, b, **EXACT)
        assert a.isfinite().all() and a.any()


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("rotary", [None, RotaryPositions()])
def test_several_heads_give_the_same_with_and_without_weights(kind, rotary):
    ours = MultiHeadAttention(D, 3, rotary=rotary).double()
    query, memory, mask = normal(B, T, D), normal(B, S, D, seed=1), with_blind_rows(masks()[kind])
    output, weights = ours(query, memory, mask, need_weights=True)
    torch.testing.assert_close(ours(query, memory, mask)[0], output, **EXACT)
    assert not weights[1, :, 2].any() and not weights[2, :, 0].any()
    torch.testing.assert_close(output[1, 2], ours.output_projection.bias, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_that_may_look_nowhere_gives_zeros_and_finite_gradients(dtype):
    query, key, value = (normal(B, n, D, seed=i).to(dtype) for i, n in enumerate((T, S, S)))
    mask = torch.ones(B, T, S, dtype=torch.bool)
    mask[1, 2] = False
    output, weights = attend(query, key, value, mask)
    fused = attend_fused(query, key, value, mask)
    assert not output[1, 2].any() and not weights[1, 2].any() and not fused[1, 2].any()
    torch.testing.assert_close(output, fused)
    leaf = query.detach().requires_grad_()
    for path in (attend(leaf, key, value, mask)[0], attend_fused(leaf, key, value, mask)):
        (gradient,) = torch.autograd.grad(path.sum(), leaf)
        assert gradient.isfinite().all() and not gradient[1, 2].any()


def test_weights_sum_to_one_and_are_zero_where_masked():
    mask = masks()["both"]
    weights = attention_weights(normal(B, T, S), mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T, dtype=torch.float64))
    assert not weights.masked_select(~mask.expand_as(weights)).any()


def test_scores_keep_unit_variance_whatever_the_size():
    scores = [attend(normal(50, 20, e), normal(50, 20, e, seed=1), normal(50, 20, 1))[1] for e in (8, 512)]
    spread = [weights.std().item() for weights in scores]
    assert spread[0] == pytest.approx(spread[1], rel=0.1)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((B, T, 4), (B, S, 5), (B, S, 5)), "4 and 5 features"),
        (((B, T, 4), (B, S, 4), (B, T, 4)), "7 keys and 5 values"),
    ],
)
def test_wrong_shapes_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        attend(*(torch.zeros(shape) for shape in shapes))


def test_wrong_masks_are_named():
    inputs = torch.zeros(B, T, D), torch.zeros(B, S, D), torch.zeros(B, S, D)
    with pytest.raises(TypeError, match=r"boolean mask.*float32"):
        attend(*inputs, torch.zeros(T, S))
    with pytest.raises(ValueError, match=r"\(3, 5, 7\).*got \(7, 5\)"):
        attend_fused(*inputs, torch.ones(S, T, dtype=torch.bool))


# --- additive and multiplicative scores --------------------------------------------------------------------


def loop_scores(query, key, score):
    """The same formula, one pair at a time."""
    return torch.stack(
        [
            torch.stack([torch.stack([score(q, k) for k in key[b]]) for q in query[b]])
            for b in range(len(query))
        ]
    )


def test_additive_score_is_bahdanaus_formula():
    module = AdditiveScore(4, 6, 5).double()
    W, U, v = (module.query_projection.weight, module.key_projection.weight, module.vector.weight[0])
    query, key = normal(2, 3, 4), normal(2, 5, 6, seed=1)
    expected = loop_scores(query, key, lambda q, k: v @ torch.tanh(W @ q + U @ k))
    torch.testing.assert_close(module(query, key), expected, **EXACT)
    inputs = [query, key, W, U]
    for a, b in zip(gradients(module(query, key), inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_luongs_three_scores_are_their_formulas():
    query, key, wide = normal(2, 3, 4), normal(2, 5, 4, seed=1), normal(2, 5, 6, seed=2)
    torch.testing.assert_close(DotScore()(query, key), loop_scores(query, key, torch.dot), **EXACT)
    general = GeneralScore(4, 6).double()
    expected = loop_scores(query, wide, lambda q, k: q @ general.key_projection.weight @ k)
    torch.testing.assert_close(general(query, wide), expected, **EXACT)
    concat = ConcatScore(4, 6, 5).double()
    W, v = concat.projection.weight, concat.vector.weight[0]
    expected = loop_scores(query, wide, lambda q, k: v @ torch.tanh(W @ torch.cat([q, k])))
    torch.testing.assert_close(concat(query, wide), expected, **EXACT)


@pytest.mark.parametrize("score", [AdditiveScore(4, 6, 5), GeneralScore(4, 6), ConcatScore(4, 6, 5)])
def test_keys_projected_once_serve_every_query(score):
    score = score.double()
    query, key = normal(2, 3, 4), normal(2, 5, 6, seed=1)
    projected = score.project_keys(key)
    step_by_step = [score.compare(one, projected) for one in query.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(step_by_step, dim=1), score(query, key), **EXACT)


def test_concat_contains_additive():
    """One matrix on both is two matrices, one on each."""
    concat, additive = ConcatScore(4, 6, 5).double(), AdditiveScore(4, 6, 5).double()
    with torch.no_grad():
        additive.query_projection.weight.copy_(concat.projection.weight[:, :4])
        additive.key_projection.weight.copy_(concat.projection.weight[:, 4:])
        additive.vector.weight.copy_(concat.vector.weight)
    query, key = normal(2, 3, 4), normal(2, 5, 6, seed=1)
    torch.testing.assert_close(concat(query, key), additive(query, key), **EXACT)


# --- several heads -------------------------------------------------------------------------------------


def pair(bias: bool = True) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    theirs = nn.MultiheadAttention(D, N, bias=bias, batch_first=True).double()
    if bias:
        nn.init.normal_(theirs.in_proj_bias)
        nn.init.normal_(theirs.out_proj.bias)
    ours = MultiHeadAttention(D, N, bias=bias).double()
    ours.load_from_torch(theirs)
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("cross", [True, False])
def test_multi_head_attention_equals_torch(bias, need_weights, kind, cross):
    ours, theirs = pair(bias)
    query, memory = normal(B, S, D), normal(B, S, D, seed=1)
    query = query[:, :T] if cross else query
    mask = masks(query.shape[1])[kind]
    forbidden = None if mask is None else ~mask.expand(B, query.shape[1], S).repeat_interleave(N, dim=0)
    output, weights = ours(query, memory if cross else None, mask, need_weights)
    source = memory if cross else query
    expected, their_weights = theirs(query, source, source, attn_mask=forbidden, average_attn_weights=False)
    torch.testing.assert_close(output, expected, **EXACT)
    if need_weights:
        torch.testing.assert_close(weights, their_weights, **EXACT)
    inputs = [query, memory] if cross else [query]
    for a, b in zip(gradients(output, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    own = gradients(output, [ours.query_projection.weight, ours.output_projection.weight])
    them = gradients(expected, [theirs.in_proj_weight, theirs.out_proj.weight])
    torch.testing.assert_close(own[0], them[0][:D], **EXACT)
    torch.testing.assert_close(own[1], them[1], **EXACT)


def test_heads_that_do_not_divide_and_other_sizes_are_named():
    with pytest.raises(ValueError, match="size=12 and heads=5"):
        MultiHeadAttention(12, 5)
    with pytest.raises(ValueError, match="12 features in 4 heads, got 8 in 2"):
        MultiHeadAttention(12, 4).load_from_torch(nn.MultiheadAttention(8, 2))


def test_no_future_leaks_through_a_causal_mask():
    ours, _ = pair()
    x = normal(B, T, D)
    (gradient,) = torch.autograd.grad(ours(x, mask=causal_mask(T))[0][:, 2].sum(), x)
    assert gradient[:, :3].ne(0).any(dim=-1).all() and not gradient[:, 3:].any()


def test_padding_does_not_matter():
    ours, _ = pair()
    x = normal(B, S, D).detach()
    spoilt = x.masked_fill(~padding_mask(LENGTHS, S).transpose(1, 2), 1e3)
    mask = padding_mask(LENGTHS, S)
    for i, length in enumerate(LENGTHS):
        torch.testing.assert_close(ours(x, mask=mask)[0][i, :length], ours(spoilt, mask=mask)[0][i, :length])
        alone = ours(x[i : i + 1, :length])[0][0]
        torch.testing.assert_close(ours(x, mask=mask)[0][i, :length], alone, **EXACT)


def test_without_positions_order_is_invisible():
    ours, _ = pair()
    x, order = normal(B, T, D), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(ours(x[:, order])[0], ours(x)[0][:, order], **EXACT)


@pytest.mark.parametrize("rotary", [None, RotaryPositions()])
def test_looking_at_a_cache_equals_looking_at_everything(rotary):
    ours = MultiHeadAttention(D, 3, rotary=rotary).double()
    x = normal(B, T, D)
    expected = ours(x, mask=causal_mask(T))[0]
    keys, values = zip(*(ours.keys_and_values(x[:, t : t + 1], start=t) for t in range(T)), strict=True)
    for t in range(T):
        key, value = torch.cat(keys[: t + 1], dim=2), torch.cat(values[: t + 1], dim=2)
        output, _ = ours.look(x[:, t : t + 1], key, value, start=t)
        torch.testing.assert_close(output[:, 0], expected[:, t], **EXACT)


def test_dropout_acts_in_training_only():
    ours = MultiHeadAttention(D, N, dropout=0.5)
    x = torch.randn(B, T, D)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval()
    torch.testing.assert_close(ours(x, need_weights=True)[0], ours(x)[0])


# --- positions -----------------------------------------------------------------------------------------


def test_sinusoids_are_the_papers_formula():
    table = sinusoids(30, 6, dtype=torch.float64)
    for t in (0, 1, 17, 29):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)
    with pytest.raises(ValueError, match=r"even size.*got 7"):
        sinusoids(3, 7)


def test_sinusoidal_positions_grow_and_can_start_anywhere():
    positions = SinusoidalPositions(6)
    whole = positions(torch.zeros(1, 200, 6))
    torch.testing.assert_close(whole[0], sinusoids(200, 6))
    torch.testing.assert_close(positions(torch.zeros(1, 3, 6), start=150), whole[:, 150:153])
    assert not list(positions.parameters()) and not positions.state_dict()


def test_sinusoidal_positions_are_as_exact_as_their_input():
    positions = SinusoidalPositions(6)
    positions(torch.zeros(1, 9, 6))  # a float32 table is kept
    exact = positions.double()(torch.zeros(1, 9, 6, dtype=torch.float64))
    torch.testing.assert_close(exact[0], sinusoids(9, 6, dtype=torch.float64), **EXACT)
    assert positions(torch.zeros(1, 9, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="even size"):
        SinusoidalPositions(7)


def test_rotary_in_half_precision_is_the_exact_turn_rounded():
    rotary, x = RotaryPositions(), torch.randn(2, 5, 6).bfloat16()
    turned = rotary(x, start=3000)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned, rotary(x.double(), start=3000).bfloat16(), rtol=0.01, atol=0.01)
    with pytest.raises(ValueError, match=r"even size.*got 5"):
        rotary(torch.zeros(2, 3, 5))


def test_learned_positions_end_where_the_table_ends():
    positions = LearnedPositions(6, 10)
    torch.testing.assert_close(positions(torch.zeros(2, 4, 6), start=3)[1], positions.table.weight[3:7])
    with pytest.raises(ValueError, match="at most 10 positions, got 11"):
        positions(torch.zeros(1, 4, 6), start=7)


def test_rotary_is_multiplication_by_a_unit_complex_number():
    x = normal(2, 5, 6).detach()
    as_complex = torch.view_as_complex(x.unflatten(-1, (3, 2)).contiguous())
    angle = torch.arange(5, dtype=torch.float64)[:, None] / 10_000 ** (torch.arange(3).double() * 2 / 6)
    expected = torch.view_as_real(as_complex * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    torch.testing.assert_close(RotaryPositions()(x), expected, **EXACT)


def test_rotary_products_depend_on_the_distance_only():
    rotary, query, key = RotaryPositions(), normal(1, 8), normal(1, 8, seed=1)
    near = [rotary(query, start=t) @ rotary(key, start=t + 3).T for t in (0, 5, 400)]
    torch.testing.assert_close(near[1], near[0])
    torch.testing.assert_close(near[2], near[0])
    other = rotary(query) @ rotary(key, start=4).T
    assert not torch.allclose(other, near[0])
