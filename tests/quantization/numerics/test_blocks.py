from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from qexport.quantization.numerics.blocks import SMALLEST_SCALE, Blocks, Grid, pack, rtn, unpack

GRIDS = st.builds(
    Grid,
    bits=st.sampled_from([4, 8]),
    block_size=st.sampled_from([16, 32, 64, 128]),
    symmetric=st.booleans(),
    scale_dtype=st.sampled_from(["float16", "float32"]),
)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 150))
SIZES = st.sampled_from([0.0, 1e-45, 1e-40, 1e-30, 1e-8, 1e-6, 1e-3, 1.0, 700.0, 1e5, 1e30, 3e38])


@st.composite
def weights(draw, largest=3.4e38):
    """Rows of very different size, with zeros, constants and values of one sign among them."""
    rows, columns = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = {
        "mixed": lambda: rng.uniform(-1, 1, columns),
        "one sign": lambda: rng.uniform(0, 1, columns),
        "constant": lambda: np.full(columns, rng.uniform(-1, 1)),
        "sparse": lambda: rng.uniform(-1, 1, columns) * (rng.random(columns) < 0.1),
    }
    sizes = st.tuples(st.sampled_from(sorted(kinds)), SIZES.filter(lambda size: size <= largest))
    drawn = [draw(sizes) for _ in range(rows)]
    return np.stack([kinds[kind]() * size for kind, size in drawn]).astype(np.float32)


def each(values, grid, columns):
    """What is kept for each block, for each weight."""
    return np.repeat(values, grid.block_size, axis=1)[:, :columns]


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(weights(), GRIDS)
@settings(deadline=None, max_examples=200)
def test_a_weight_is_off_by_half_a_scale_at_most(weight, grid):
    """On the symmetric grid up to a whole one at the end that has one level less."""
    blocks = rtn(weight, grid)
    assert np.isfinite(blocks.scale).all()
    assert (np.abs(blocks.scale) >= SMALLEST_SCALE[grid.scale_dtype]).all()
    scale = each(np.abs(blocks.scale), grid, weight.shape[1]).astype(np.float64)
    cut = scale == np.finfo(np.float16).max if grid.scale_dtype == "float16" else np.zeros_like(weight, bool)
    error = np.abs(blocks.dequantize().astype(np.float64) - weight)
    at_the_top = (blocks.integers == grid.top) & grid.symmetric
    rounding = 4e-7 * np.abs(weight)
    assert (error <= np.where(at_the_top, scale, scale / 2) + rounding)[~cut].all()


@given(weights(largest=1e5), GRIDS)
@settings(deadline=None, max_examples=50)
def test_a_scale_is_no_larger_than_the_weights_need(weight, grid):
    blocks = rtn(weight, grid)
    steps = grid.middle if grid.symmetric else grid.top
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % grid.block_size)))
    spread = padded.reshape(len(weight), -1, grid.block_size)
    span = np.abs(spread).max(2) if grid.symmetric else np.maximum(spread.max(2), 0) - np.minimum(spread.min(2), 0)
    rounding = 2e-3 if grid.scale_dtype == "float16" else 1e-6
    smallest = SMALLEST_SCALE[grid.scale_dtype]
    enough = np.where(span < 1e-40, 1.0, span.astype(np.float64) / steps * (1 + rounding) + 2 * smallest)
    assert (np.abs(blocks.scale) <= enough).all()


@given(weights(), GRIDS)
@settings(deadline=None, max_examples=50)
def test_zero_stays_zero(weight, grid):
    assert not rtn(weight, grid).dequantize()[weight == 0].any()


@pytest.mark.parametrize("value", [0.37, -0.37, 1e-20, -1e20])
def test_a_symmetric_block_of_one_value_is_exact(value):
    weight = np.full((2, 40), value, np.float32)
    blocks = rtn(weight, Grid(bits=4, block_size=32, symmetric=True))
    np.testing.assert_array_equal(blocks.dequantize(), weight)
    assert (blocks.integers == 0).all()


def test_hand_arithmetic_symmetric():
    weight = np.array([[-8.0, 7.6, 3.4, 0.0] * 4, [4.0, -3.9, 0.3, 1.0] * 4], np.float32)
    blocks = rtn(weight, Grid(bits=4, block_size=16, symmetric=True))
    np.testing.assert_array_equal(blocks.scale, [[1.0], [-0.5]])
    np.testing.assert_array_equal(blocks.integers[:, :4], [[0, 15, 11, 8], [0, 15, 7, 6]])
    np.testing.assert_array_equal(blocks.dequantize()[:, :4], [[-8, 7, 3, 0], [4, -3.5, 0.5, 1.0]])


def test_hand_arithmetic_asymmetric():
    weight = np.array([[-5.0, 10.0, 2.4, 0.0] * 4, [3.0, 30.0, 17.0, 1.1] * 4], np.float32)
    blocks = rtn(weight, Grid(bits=4, block_size=16, symmetric=False))
    np.testing.assert_array_equal(blocks.scale, [[1.0], [2.0]])
    np.testing.assert_array_equal(blocks.zero_point, [[5], [0]])
    np.testing.assert_array_equal(blocks.integers[:, :4], [[0, 15, 7, 5], [2, 15, 8, 1]])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("peak", [1e-3, 1e-5, 1e-6, 1e-7])
def test_float16_scales_of_small_weights_neither_vanish_nor_spoil(symmetric, peak):
    weight = noise((8, 64))
    weight *= np.float32(peak) / np.abs(weight).max()
    blocks = rtn(weight, Grid(bits=4, block_size=32, symmetric=symmetric, scale_dtype="float16"))
    np.testing.assert_array_equal(blocks.scale, blocks.scale.astype(np.float16))
    assert np.abs(blocks.dequantize() - weight).max() <= max(0.16 * peak, 2.0**-25)


@given(weights(), GRIDS)
@settings(deadline=None, max_examples=100)
def test_packing_loses_nothing(weight, grid):
    blocks = rtn(weight, grid)
    packed, scales, zeros = pack(blocks)
    rows, count = blocks.scale.shape
    assert packed.shape == (rows, count, grid.block_size * grid.bits // 8)
    assert scales.dtype == grid.scale_dtype
    assert (zeros is None) == grid.symmetric
    assert zeros is None or zeros.shape == (rows, -(-count * grid.bits // 8))
    again = unpack(packed, scales, zeros, grid=grid, columns=weight.shape[1])
    np.testing.assert_array_equal(again.integers, blocks.integers)
    np.testing.assert_array_equal(again.scale, blocks.scale)
    if not grid.symmetric:
        np.testing.assert_array_equal(again.zero_point, blocks.zero_point)
    np.testing.assert_array_equal(again.dequantize(), blocks.dequantize())


@given(hnp.arrays(np.uint8, (2, 32), elements=st.integers(0, 15)), st.lists(st.integers(0, 15), min_size=4, max_size=4))
@settings(deadline=None)
def test_every_level_survives_packing(integers, zeros):
    grid = Grid(bits=4, block_size=16, symmetric=False)
    zero = np.array(zeros, np.uint8).reshape(2, 2)
    blocks = Blocks(integers=integers, scale=np.ones((2, 2), np.float32), zero_point=zero, grid=grid)
    again = unpack(*pack(blocks), grid=grid, columns=32)
    np.testing.assert_array_equal(again.integers, integers)
    np.testing.assert_array_equal(again.zero_point, zero)


def test_the_even_weight_lies_in_the_low_nibble_and_the_rest_is_the_zero_point():
    grid = Grid(bits=4, block_size=16, symmetric=False)
    blocks = Blocks(
        integers=np.array([[1, 2, 3]], np.uint8),
        scale=np.ones((1, 1), np.float32),
        zero_point=np.array([[6]], np.uint8),
        grid=grid,
    )
    packed, _, zeros = pack(blocks)
    assert packed.tobytes().hex() == "21" + "63" + "66" * 6
    assert zeros.tobytes().hex() == "06"


def run_one(node, inputs, feeds, outputs):
    """Run a model of one node on the CPU."""
    held = [onnx.numpy_helper.from_array(value, name) for name, value in inputs.items()]
    given_ = [
        oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    out = [oh.make_tensor_value_info(outputs, TensorProto.FLOAT, None)]
    graph = oh.make_graph([node], "one", given_, out, initializer=held)
    opsets = [oh.make_opsetid("", 21), oh.make_opsetid("com.microsoft", 1)]
    model = oh.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def in_onnxruntime(blocks, columns):
    """The weights as MatMulNBits multiplies with them: its product with the identity."""
    packed, scales, zeros = pack(blocks)
    inputs = {"b": packed, "s": scales} | ({} if zeros is None else {"z": zeros})
    node = oh.make_node(
        "MatMulNBits",
        ["x", *inputs],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=len(scales),
        bits=blocks.grid.bits,
        block_size=blocks.grid.block_size,
        accuracy_level=1,
    )
    return run_one(node, inputs, {"x": np.eye(columns, dtype=np.float32)}, "y").T


@pytest.mark.parametrize("columns", [128, 172])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_onnxruntime_multiplies_with_these_weights(bits, symmetric, block_size, columns):
    blocks = rtn(noise((24, columns)), Grid(bits=bits, block_size=block_size, symmetric=symmetric))
    computed = in_onnxruntime(blocks, columns)
    np.testing.assert_allclose(computed, blocks.dequantize(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_one_step_in_one_integer_shows_in_onnxruntime(symmetric):
    blocks = rtn(noise((24, 172)), Grid(bits=8, block_size=32, symmetric=symmetric))
    blocks.integers[3, 171] ^= 1
    off = np.abs(in_onnxruntime(blocks, 172) - rtn(noise((24, 172)), blocks.grid).dequantize()) > 1e-6
    assert np.argwhere(off).tolist() == [[3, 171]]


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_onnxruntime_looks_these_rows_up(bits, symmetric, block_size):
    blocks = rtn(noise((24, 256)), Grid(bits=bits, block_size=block_size, symmetric=symmetric))
    packed, scales, zeros = pack(blocks)
    inputs = {"b": packed.reshape(24, -1), "s": scales} | ({} if zeros is None else {"z": zeros})
    node = oh.make_node(
        "GatherBlockQuantized",
        ["b", "ids", "s", *(["z"] if zeros is not None else [])],
        ["y"],
        domain="com.microsoft",
        bits=bits,
        block_size=block_size,
        gather_axis=0,
        quantize_axis=1,
    )
    ids = np.array([[5, 0], [23, 5]], np.int64)
    rows = run_one(node, inputs, {"ids": ids}, "y")
    np.testing.assert_array_equal(rows, blocks.dequantize()[ids])
