"""ResNet-9 and ResNet-18: sizes, shapes, draws, modes, bad images."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, ShapeError
from needle.models import BasicBlock, ConvBN, ResNet9, ResNet18


def images(batch, extent=32, channels=3):
    x = np.random.RandomState(1).randn(batch, channels, extent, extent)
    return tensor(x.astype("float32"), requires_grad=False)


def test_resnet9_has_the_parameters_of_the_course():
    assert ResNet9().num_parameters() == 431_946


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 11_173_962),
        ({"num_classes": 100}, 11_220_132),
        ({"num_classes": 1000, "small_images": False}, 11_689_512),
    ],
)
def test_resnet18_has_the_parameters_of_the_paper(options, size):
    assert ResNet18(**options).num_parameters() == size


def test_resnet9_draws_its_layers_in_forward_order():
    np.random.seed(5)
    model = ResNet9()
    np.random.seed(5)
    for inputs, outputs, kernel in [
        (3, 16, 7), (16, 32, 3), (32, 32, 3), (32, 32, 3), (32, 64, 3),
        (64, 128, 3), (128, 128, 3), (128, 128, 3),
    ]:  # fmt: skip
        nn.Conv(inputs, outputs, kernel)
    first = nn.Linear(128, 128)
    last = nn.Linear(128, 10)
    parameters = model.parameters()
    np.testing.assert_array_equal(parameters[-4].numpy(), first.weight.numpy())
    np.testing.assert_array_equal(parameters[-1].numpy(), last.bias.numpy())


@pytest.mark.parametrize("build", [ResNet9, ResNet18])
def test_images_become_logits_and_every_parameter_learns(build, each_device):
    model = build(device=each_device)
    x = images(2, 16).to(each_device)
    logits = model(x)
    assert logits.shape == (2, 10)
    assert logits.dtype == np.float32
    assert logits.device == each_device
    nn.SoftmaxLoss()(logits, ndl.Tensor([1, 2], device=each_device)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_evaluation_treats_each_image_by_itself():
    model = ResNet9().eval()
    x = images(3)
    with ndl.no_grad():
        together, alone = model(x).numpy(), model(x[1:2]).numpy()
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_resnet18_takes_images_of_any_size():
    model = ResNet18(4, small_images=False).eval()
    with ndl.no_grad():
        assert model(images(1, 48)).shape == (1, 4)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1)])
def test_a_basic_blocks_shortcut_projects_only_where_the_shape_changes(inputs, outputs, stride):
    block = BasicBlock(inputs, outputs, stride).eval()
    x = images(2, 8, inputs)
    y = ndl.relu(block.bn1(block.conv1(x)))
    shortcut = block.downsample(x) if (inputs, stride) != (outputs, 1) else x
    expected = ndl.relu(block.bn2(block.conv2(y)) + shortcut)
    assert (block.downsample is None) == ((inputs, stride) == (outputs, 1))
    assert block(x).shape == (2, outputs, 8 // stride, 8 // stride)
    np.testing.assert_allclose(block(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_conv_bn_is_a_convolution_a_norm_and_a_relu():
    block = ConvBN(3, 8, 5, 2)
    y = block(images(2, 9))
    assert y.shape == (2, 8, 5, 5)
    assert (y.numpy() >= 0).all()


def test_convolutions_of_resnet18_start_from_hes_normal():
    weight = ResNet18().layer4.modules[1].conv1.weight.numpy()
    assert weight.std() == pytest.approx(np.sqrt(2 / (512 * 9)), rel=0.01)


@pytest.mark.parametrize("build", [ResNet9, ResNet18])
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 32, 32, 3), (3, 32, 32)])
def test_what_is_no_batch_of_images_is_refused(build, shape):
    with pytest.raises(ShapeError, match=r"ResNet\d+: expected images x \[B, 3, H, W\], got float"):
        build()(tensor(np.zeros(shape, "float32")))


@pytest.mark.parametrize("build", [ResNet9, ResNet18])
def test_images_without_pixels_are_refused(build):
    with pytest.raises(ShapeError, match=r"images of 1 pixel or more, got float32\[2,3,0,32\]"):
        build()(tensor(np.zeros((2, 3, 0, 32), "float32")))


def test_resnet9_refuses_large_images():
    with pytest.raises(ShapeError, match=r"images of at most 32 by 32, got float32\[1,3,33,33\]"):
        ResNet9()(images(1, 33))


def test_arrays_and_no_classes_are_refused():
    with pytest.raises(DTypeError, match="ResNet9: expected Tensors"):
        ResNet9()(np.zeros((1, 3, 32, 32)))
    with pytest.raises(OptionError, match="ResNet18: expected num_classes of 1 or more, got 0"):
        ResNet18(0)


def test_float64_stays_float64():
    model = ResNet9(dtype="float64").eval()
    assert model(images(1).astype("float64")).dtype == np.float64
