"""What the library costs, measured as whole processes on one machine."""
