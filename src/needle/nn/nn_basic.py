"""Every basic module under the name of the course's file, for notebooks that import from it."""

from needle.nn import *  # noqa: F403
