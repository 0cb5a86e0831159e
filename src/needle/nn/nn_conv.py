"""The convolutional modules under the name of the course's file, for notebooks that import it."""

from needle.nn import *  # noqa: F403
