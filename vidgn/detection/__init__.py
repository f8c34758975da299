"""Mask R-CNN on COCO as a task of the same loop: networks, images with their boxes and masks, the test."""
