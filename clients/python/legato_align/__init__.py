"""Face alignment for video, shared by legato's client and server: find, crop, steady, hold, paste back. No torch.

    detectors     a frame -> faces: YuNet, Haar cascade, LBP cascade, MediaPipe, or a box that the user draws
    geometry      a face -> the FFHQ crop, one similarity transform, and the picture in it
    smoothing     crops in time -> a steady crop (One-Euro, lock-scale)
    motion        two frames -> how the face moved between them, and whether the scene was cut
    aligner       all of it: frames and their times -> Alignment
    paste         a crop's new picture -> the frame it came from
    judge         whether a picture looks aligned at all

Needs OpenCV (`pip install 'legato-client[face]'`); this module alone imports without.
"""
