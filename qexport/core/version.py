"""The version of this release. The build reads it from here too."""

VERSION = "0.1.0"
