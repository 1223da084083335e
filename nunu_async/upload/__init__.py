"""The build-upload pipeline: a file on disk becomes a build in storage."""
