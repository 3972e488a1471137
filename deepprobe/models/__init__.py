"""PlainNet, ResNet, ResNeXt, VGG, AlexNet, LeNet: networks by name, and how their weights start."""

from __future__ import annotations

from deepprobe.models.activations import ACTIVATIONS
from deepprobe.models.alexnet import AlexNet
from deepprobe.models.initialisation import initialise, lsuv, weighted_layers
from deepprobe.models.lenet import SmallNet
from deepprobe.models.registry import ModelInfo, create_model, describe_model, list_models
from deepprobe.models.residual import ResidualNet
from deepprobe.models.vgg import VGG
from deepprobe.models.zoo import ZooModel

__all__ = [
    "ACTIVATIONS",
    "AlexNet",
    "ModelInfo",
    "ResidualNet",
    "SmallNet",
    "VGG",
    "ZooModel",
    "create_model",
    "describe_model",
    "initialise",
    "list_models",
    "lsuv",
    "weighted_layers",
]
