"""Every operator under the name of the course's file, for notebooks that import from it."""

from needle.ops import *  # noqa: F403
