"""Pictures of attributions: captum's own, and closed forms."""

from __future__ import annotations

import captum.attr as captum
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.attribution import grad_cam_maps, input_attributions
from deepprobe.attribution.baselines import BLUR, blurred
from deepprobe.errors import ConfigError, ShapeError, UnknownNameError
from tests.toys import InPlace


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 1])


def test_a_linear_model_has_its_weights_as_attributions(images: tuple[Tensor, Tensor]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double()
    x, y = images
    gradient = model[1].weight.detach()[y].reshape(x.shape)
    expected = {"saliency": gradient, "input-x-gradient": gradient * x, "integrated-gradients": gradient * x}
    for method, values in expected.items():
        found = input_attributions(model, images, method)
        np.testing.assert_allclose(found.values, values, rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(found.target, y)
    mean = input_attributions(model, images, baseline="mean")
    np.testing.assert_allclose(mean.values, gradient * (x - x.mean(0)), rtol=1e-6, atol=1e-9)
    assert mean.convergence_delta.max() < 1e-6
    blur = input_attributions(model, images, baseline="blur")
    np.testing.assert_allclose(blur.values, gradient * (x - blurred(x)), rtol=1e-6, atol=1e-9)


def test_grad_cam_is_captums_made_larger(images: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = InPlace().double().train()
    x, y = images
    found = grad_cam_maps(model, images, "conv")
    model.act.inplace = False
    small = captum.LayerGradCam(model, model.conv).attribute(x, y, relu_attributions=True).detach()
    expected = F.interpolate(small, size=(8, 8), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    assert found.values.shape == (3, 1, 8, 8)
    assert found.values.min() >= 0
    assert model.training


def test_blurring_keeps_brightness_and_drops_detail() -> None:
    flat = torch.full((1, 2, 16, 16), 3.0, dtype=torch.float64)
    torch.testing.assert_close(blurred(flat), flat)
    point = torch.zeros(1, 1, 65, 65, dtype=torch.float64)
    point[0, 0, 32, 32] = 1
    sigma = BLUR * 65
    profile = blurred(point)[0, 0, 32]
    offsets = torch.arange(-32, 33, dtype=torch.float64)
    inside = offsets.abs() <= 3 * sigma - 1
    expected = torch.exp(-0.5 * (offsets / sigma) ** 2)
    torch.testing.assert_close((profile / profile[32])[inside], expected[inside])


def test_what_is_wrong_is_said(images: tuple[Tensor, Tensor]) -> None:
    model = InPlace().double()
    with pytest.raises(ConfigError, match="did you mean 'saliency'"):
        input_attributions(model, images, "saliencies")
    with pytest.raises(ShapeError, match="expected images"):
        input_attributions(model, images[0][0])
    with pytest.raises(ConfigError, match="gives shape \\(2,\\) a sample, not maps"):
        grad_cam_maps(model, images, "head")
    with pytest.raises(UnknownNameError, match="matches nothing"):
        grad_cam_maps(model, images, "stage9")
    with pytest.raises(ConfigError, match="blur' is for images"):
        blurred(images[0][0])
