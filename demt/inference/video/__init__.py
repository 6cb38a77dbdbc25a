"""Predictions on videos and cameras, by PyAV: ``pip install 'demt[video]'``."""

from demt.inference.video.read import VideoCutOffError
from demt.inference.video.run import VideoFrame, VideoSummary, predict_video

__all__ = ["VideoCutOffError", "VideoFrame", "VideoSummary", "predict_video"]
