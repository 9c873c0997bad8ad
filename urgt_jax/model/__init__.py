"""The network: DINOv2 encoder, alternating attention, DPT heads."""
