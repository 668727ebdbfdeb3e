"""What torchmetrics takes from torchvision.models: AlexNet of the published shape, and names.

The layers and their sizes: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
networks", as torchvision numbers them. The classifier, which nothing here uses, is left out.
"""

import os

import torch
from torch import nn

#: What each network was asked to load.
asked: list[str] = []


class AlexNet_Weights:  # noqa: N801 - torchvision's name
    DEFAULT = "weights"


class VGG16_Weights:  # noqa: N801 - torchvision's name
    DEFAULT = "weights"


class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )


def alexnet(*, weights: str | None = None) -> AlexNet:
    asked.append(str(weights))
    network = AlexNet()
    if weights is not None:
        folder = os.path.join(os.environ["TORCH_HOME"], "hub", "checkpoints")
        file = os.path.join(folder, "alexnet-owt-7be5be79.pth")
        network.load_state_dict(torch.load(file, weights_only=True))
    return network


def vgg16() -> None:
    raise NotImplementedError


def resnet50() -> None:
    raise NotImplementedError
