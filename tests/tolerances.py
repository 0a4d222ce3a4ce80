"""Every numeric tolerance of the tests, each with the reason for its size; a contract test allows them nowhere else.

Use: `torch.testing.assert_close(actual, expected, **EXACT)`; numpy's assert_allclose and gradcheck take the same two.
"""

from __future__ import annotations

from typing import TypedDict


class Tolerance(TypedDict):
    """|actual - expected| <= atol + rtol * |expected|."""

    rtol: float
    atol: float


EXACT = Tolerance(rtol=0.0, atol=0.0)  # the same arithmetic in the same order

# Models. Fractions of the image's standard deviation, unless it says otherwise.
PUBLISHED_IMAGE = 1e-4  # float32 against another implementation's float32, summed in another order; measured 7e-6
BFLOAT16_IMAGE = 0.05  # root mean square; 8 bits a product, some dozen layers that do not all err the same way
GENERATOR_ROUNDING = Tolerance(rtol=1e-4, atol=1e-5)  # float32 sums of some hundred unit-normal products, reordered
UNIT_MOMENT = 0.1  # a second moment estimated from some thousand correlated samples
DOUBLE_GRADIENT = Tolerance(rtol=1e-3, atol=1e-5)  # central differences of step 1e-6 in float64
HALF_STORAGE = 0.02  # largest pixel; weights rounded to 11 bits, a dozen layers

# Media.
VIDEO_LEVELS = Tolerance(rtol=0.0, atol=3.0)  # of 255; a flat gray through 4:2:0 at quality 14..20

# Losses and inversion.
LOSS_ROUNDING = Tolerance(rtol=1e-5, atol=1e-6)  # float32 means over some thousand pixels, summed in another order
ADAM_ROUNDING = Tolerance(rtol=1e-4, atol=1e-5)  # some steps of 0.1 whose direction is a ratio of two rounded means
FLOW_PIXELS = Tolerance(rtol=0.0, atol=0.15)  # DIS at a quarter of the resolution, on a texture of 4 pixels
BATCH_LATENTS_FLOAT32 = Tolerance(rtol=0.0, atol=0.01)  # 4 steps of .03; Adam divides small gradients by their own size
DIFFERENCE_ROUNDING = Tolerance(rtol=0.0, atol=2e-6)  # of two float32 codes of some units that were summed before
LEVELS_ROUNDING = Tolerance(rtol=0.0, atol=1.0)  # of 255; a value between two levels falls to either side
BATCH_LEVELS = (
    3  # of 255, worst pixel; one image is rounded to bfloat16 elsewhere than one of two (styles in the weight)
)
PSNR_ROUNDING = {"rel_tol": 0.0, "abs_tol": 1e-3}  # dB; a mean of squares in another order

# Latents of a session beside three others against those of the same session alone: root mean square over a frame as a
# fraction of their standard deviation, by dtype and whether steps were taken. Products of one row and of several are
# summed in different orders, bfloat16 then rounds the difference up to 2^-8, and Adam divides small gradients by their
# own size. Measured at 64 and 128 px: without steps float32 and bfloat16 1e-6 (the heads are float32; convolutions of
# other processors may differ by a rounding), with 4 steps a frame over 8 frames float32 3e-4, bfloat16 4e-3. Over a
# longer stream steps drift apart on the way to the same images: 1.5e-2 after 40 frames, in either dtype.
BESIDE_OTHERS_RMS = {
    ("torch.float32", False): 1e-5,
    ("torch.float32", True): 2e-3,
    ("torch.bfloat16", False): 5e-3,
    ("torch.bfloat16", True): 2e-2,
}

# bfloat16 against float32, the whole path of a frame. Measured with the shipped model: codes 2e-3 (0 steps), 1.3e-2 (2
# steps a frame), PSNR 0.014 dB; with the small one, whose layers are not trained to forgive: 6e-3 and 0.033 dB.
HALF_LATENTS_RMS = 3e-2  # fraction of the codes' standard deviation
HALF_PSNR_DB = 0.1

# Ops. Errors are root mean squares against float64, as fractions of the float64 result's root mean square.
FUSED_RATIO = 2.0  # a kernel may err this much more than the plain reference does in the same dtype ...
FUSED_FLOOR = {  # ... and by this on top: where the reference is exact by luck, a sum in another order still rounds
    "float64": 1e-14,
    "float32": 5e-7,
    "bfloat16": 4e-3,
    "float16": 5e-4,
}
SAME_FORMULA = Tolerance(rtol=1e-10, atol=1e-10)  # float64 against another way to write the formula, values of order 10
OP_GRADIENT = Tolerance(rtol=1e-4, atol=1e-6)  # central differences of step 1e-6 in float64
COMPILED = Tolerance(rtol=1e-6, atol=1e-6)  # the same kernel called from a compiled graph, gradients of order 1
AUTOCAST = 0.02  # a float32 op whose convolution autocast runs in bfloat16

# A smooth picture through JPEG of quality 95 with full chroma, worst pixel: the table has steps of up to 12.
JPEG_LEVELS = 12

# Evaluation.
FRECHET = 1e-6  # float64 eigenvalues of a covariance of order 1
CORRELATED = 0.05  # a closed form for independent axes, on 500 samples whose axes correlate by chance

# Training.
LENGTH = Tolerance(rtol=1e-4, atol=1e-4)  # codes of order 1 after a shift was moved from one float32 bias to another

# Rendered heads.
Z_ROUNDING = Tolerance(rtol=0.0, atol=1e-5)  # float32 mean of 64 squares, and an epsilon of 1e-8 under the root
POSITION_ROUNDING = Tolerance(
    rtol=0.0, atol=1e-3
)  # world units (0.05 pixels at 128): a fixed point beside a mouth's corner
GOLDEN_RENDER_LEVELS = 0.5  # of 255, mean over a picture; a last bit decides now and then whether a ray still hits
FLOW_ZERO_PIXELS = 0.01  # there and back through float32 at six units from the camera
FLOW_RIGID_PIXELS = 0.1  # of 64; two tracings that stop at other places on their way into a surface
FLOW_PSNR_DB = 33.0  # of 128 pixels; light changes while the head turns, bilinear interpolation softens edges
FLOW_RETURN_PIXELS = 0.1  # there and back, 99 of 100 pixels: the way back is interpolated between pixels
CLIP_PSNR_DB = 36.0  # the bundled clip against its frames: H.264 with halved color
CODEC_LEVELS = 6.0  # of 255, mean; 16 pixels of H.264 with halved color have hardly a flat area
ATTRIBUTE_TEXT = Tolerance(rtol=1e-6, atol=1e-6)  # float32 written as decimal numbers

# Perceptual networks, metrics and editing.
FEATURE_ROUNDING = Tolerance(rtol=1e-4, atol=1e-4)  # ten float32 convolutions; oneDNN may choose another algorithm
DIRECTION_ROUNDING = Tolerance(rtol=1e-4, atol=1e-4)  # eigenvectors and their values by another way, float32 data
OPTIMALITY = Tolerance(rtol=0.0, atol=2e-3)  # a gradient at the minimum; its length is searched on a grid of 0.0025
SAMPLED_DEVIATION = 0.1  # relative; of a deviation over some thousand samples, against the same of others
FADED_SUM = 1e-3  # relative; a geometric series of 60 terms against its limit
METRIC_ROUNDING = Tolerance(rtol=1e-6, atol=1e-6)  # float64 moments as differences of two, not as centered sums
ATTRIBUTE_CHANGE = Tolerance(rtol=0.0, atol=1e-4)  # deviations; a factor bisected 30 times in float32
# Methods of inversion.
DOMAIN_GRADIENT = Tolerance(rtol=0.05, atol=1e-4)  # central differences of step 1e-3 in float32 through kinks
COMPOSED_IMAGE = Tolerance(
    rtol=1e-3, atol=1e-4
)  # float32 images whose features were summed over codes in another order
PART = 0.01  # of an image's 4096 pixels, where values tie
COLOR_LEVELS = Tolerance(rtol=0.0, atol=0.6)  # of 255; OpenCV rounds luma to whole levels, with weights of 14 bits
LOST_PART = 0.02  # of 16384 pixels drawn at random

# Evaluation of methods.
SAME_PICTURE = 1e-5  # figures of a picture that was drawn twice in float32, in batches of another size

# Restoration.
NOISE_LEVEL = Tolerance(rtol=0.1, atol=0.0)  # of 16384 pixels' noise; the picture under it is smooth, not flat
LEFT_OUT = Tolerance(rtol=1e-8, atol=1e-8)  # float64 least squares by another way
WRITTEN_DB = 0.1  # PSNR of what was made, against that of its pictures of 8 bits
REPORTED = 1e-3  # a figure of a report that rounds to three places
ESTIMATED_NOISE = 0.1  # relative; of 24,000 normal values by their median
DRAWN_NOISE = 0.05  # relative; deviation of some thousand normal values, clipped at 5 deviations

# The tracker and its window.
ROTATION_FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5)  # sums over 24 products of float32
STORED_HALF = Tolerance(rtol=0.0, atol=1e-3)  # numbers below 1 that were stored as float16
SHARE_OF_TIME = 0.005  # absolute; 100 s in pieces of 0.01 s
# Mean difference, in levels of 255, of an image synthesized in batches of different sizes; the server may run bfloat16.
BESIDE_OTHERS_LEVELS = 1.0
RAFT_PIXELS = Tolerance(rtol=0.0, atol=1e-3)  # of RAFT's flow in float32, 12 updates, in batches of different sizes
# Checkpoints of other code bases.
PARITY = Tolerance(rtol=0.0, atol=1e-4)  # of scores and pictures about 1, float32 under other memory layouts
ESTIMATED_W_AVG = Tolerance(rtol=0.0, atol=0.1)  # the mean of 8192 w whose deviation is about 1

# Published encoders.
ENCODER_ROUNDING = Tolerance(rtol=1e-9, atol=1e-9)  # float64, 60 convolutions whose sums go in another order
# A device that captures its computations.
GRAPH_RMS = 2e-3  # of the codes' deviation; rows share a batch of another size, and Adam begins with the sign alone
GRAPH_LEVELS = 0.1  # of 255, mean; the same
# Footage.
CROP_ROUNDING = Tolerance(rtol=1e-9, atol=1e-9)  # float64 geometry by another way
CROP_LEVELS = Tolerance(rtol=0.0, atol=1.0)  # of 255; means of rounded pixels
SOUND_SECONDS = 2e-3  # .mkv writes times in milliseconds

# Trainings on somebody's own images.
RESAMPLED = Tolerance(rtol=1e-4, atol=1e-5)  # float32 coordinates of a bicubic kernel; color matrices
AUGMENTED_STATISTICS = 0.02  # of 20,000 images drawn at random
AVERAGED_GRADIENTS = Tolerance(rtol=0.0, atol=1e-4)  # of the largest; half batches in float32, summed in another order
