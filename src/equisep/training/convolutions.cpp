// Operations of convolutional networks in training, each on one core. Features have the layout (channel, row, column,
// image): with the images innermost every operation runs along whole vectors, for any number of channels and any image
// size, and borders need no padding. Sums may be reassociated by the compiler, but in one way for all runs. NaN and
// infinity propagate. convolutions.py describes the arguments and is the only caller.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

// A convolution with stride 1 and an odd, square kernel, whose borders are padded by zeros to the size of the image.
struct Convolution {
    int64_t images, inputs, outputs, height, width, kernel;
    int64_t plane() const { return height * width * images; }
};

// A position of the kernel that lies inside the image: offsets into the features and into the weights.
struct Tap {
    int64_t features, weights;
};

// Products of features and weights that are summed up in one go, so that the features stay in the first-level cache.
constexpr int64_t TILE_DEPTH = 128;
// Output and input channels, and values of each, whose products the gradient of the weights sums up in one go.
constexpr int64_t GRADIENT_BLOCK = 8, GRADIENT_VALUES = 512;
// Output and input channels of a tile of these products, which fills the vector registers.
constexpr int GRADIENT_ROWS = 4, GRADIENT_COLUMNS = VECTOR_BYTES == 32 ? 2 : 4;
// Values that are summed up in their own precision before they are added to a sum in double.
constexpr int64_t SUM_LENGTH = 4096;

// Rows of the next tile, if `left` are left: tiles of nearly equal height.
inline int64_t tile_rows(int64_t left) {
    if (left >= 2 * TILE_ROWS) return TILE_ROWS;
    return left > TILE_ROWS ? (left + 1) / 2 : left;
}

// y (ROWS channels, VECTORS vectors of images) = or += sum over taps and channels of weights · x.
template <class T, int ROWS, int VECTORS>
__attribute__((noinline)) void convolve_tile(const std::vector<Tap> &taps, int64_t channels, const T *x, int64_t plane,
                                             const T *weights, int64_t row, T *y, bool add) {
    using Unaligned = typename Vector<T>::unaligned;
    constexpr int64_t lanes = Vector<T>::lanes;
    typename Vector<T>::type sums[ROWS][VECTORS] = {};
    for (const Tap &tap : taps) {
        const T *source = x + tap.features, *factors = weights + tap.weights;
        for (int64_t c = 0; c < channels; c++, source += plane, factors += row) {
            typename Vector<T>::type features[VECTORS];
            UNROLLED
            for (int v = 0; v < VECTORS; v++) features[v] = *(const Unaligned *)(source + v * lanes);
            UNROLLED
            for (int i = 0; i < ROWS; i++) {
                UNROLLED
                for (int v = 0; v < VECTORS; v++) sums[i][v] += factors[i] * features[v];
            }
        }
    }
    UNROLLED
    for (int i = 0; i < ROWS; i++) {
        UNROLLED
        for (int v = 0; v < VECTORS; v++) {
            Unaligned *target = (Unaligned *)(y + i * plane + v * lanes);
            *target = add ? sums[i][v] + *target : sums[i][v];
        }
    }
}

// All output channels, a tile at a time.
template <class T, int VECTORS>
void convolve_channels(const Convolution &shape, const std::vector<Tap> &taps, int64_t channels, const T *x,
                       const T *weights, T *y, bool add) {
    const int64_t plane = shape.plane(), row = shape.outputs;
    for (int64_t o = 0, rows; o < shape.outputs; o += rows) {
        rows = tile_rows(shape.outputs - o);
        const auto tile = [&](auto height) {
            convolve_tile<T, height.value, VECTORS>(taps, channels, x, plane, weights + o, row, y + o * plane, add);
        };
        switch (rows) {
        case 1: tile(std::integral_constant<int, 1>()); break;
        case 2: tile(std::integral_constant<int, 2>()); break;
        case 3: tile(std::integral_constant<int, 3>()); break;
        case 4: tile(std::integral_constant<int, 4>()); break;
        case 5: tile(std::integral_constant<int, 5>()); break;
        default: tile(std::integral_constant<int, TILE_ROWS>());
        }
    }
}

// Fewer images than a vector has lanes.
template <class T>
void convolve_few(const Convolution &shape, const std::vector<Tap> &taps, int64_t channels, const T *x,
                  const T *weights, T *y, bool add) {
    for (int64_t o = 0; o < shape.outputs; o++)
        for (int64_t n = 0; n < shape.images; n++) {
            T sum = add ? y[o * shape.plane() + n] : 0;
            for (const Tap &tap : taps)
                for (int64_t c = 0; c < channels; c++)
                    sum += weights[tap.weights + c * shape.outputs + o] * x[c * shape.plane() + tap.features + n];
            y[o * shape.plane() + n] = sum;
        }
}

// y (outputs, height, width, images) from x (inputs, height, width, images); weights (kernel, kernel, inputs, outputs).
template <class T> void convolve(const Convolution &shape, const T *x, const T *weights, T *y) {
    constexpr int64_t lanes = Vector<T>::lanes;
    const int64_t half = shape.kernel / 2, part = std::max<int64_t>(1, TILE_DEPTH / (shape.kernel * shape.kernel));
    const bool few = shape.images < lanes;
    std::vector<Tap> taps;
    int64_t vectors = 0;
    for (int64_t image = 0; image < shape.images; image += vectors * lanes) {
        const int64_t left = (shape.images - image + lanes - 1) / lanes, whole = shape.images / lanes;
        vectors = few ? 1 : std::min({left, whole, (int64_t)TILE_VECTORS});
        // The last vectors overlap the ones before, rather than reach beyond the last image.
        const int64_t first = few ? 0 : std::min(image, shape.images - vectors * lanes);
        // A row of the result stays in the second-level cache until all input channels have been added.
        for (int64_t i = 0; i < shape.height; i++)
            for (int64_t channel = 0; channel < shape.inputs; channel += part)
                for (int64_t j = 0; j < shape.width; j++) {
                    taps.clear();
                    for (int64_t a = std::max<int64_t>(0, half - i); a < std::min(shape.kernel, shape.height + half - i); a++)
                        for (int64_t b = std::max<int64_t>(0, half - j); b < std::min(shape.kernel, shape.width + half - j); b++)
                            taps.push_back({((i + a - half) * shape.width + j + b - half) * shape.images,
                                            ((a * shape.kernel + b) * shape.inputs + channel) * shape.outputs});
                    const int64_t channels = std::min(part, shape.inputs - channel);
                    const T *source = x + channel * shape.plane() + first;
                    T *target = y + (i * shape.width + j) * shape.images + first;
                    const bool add = channel > 0;
                    switch (few ? 0 : vectors) {
                    case 0: convolve_few(shape, taps, channels, source, weights, target, add); break;
                    case 1: convolve_channels<T, 1>(shape, taps, channels, source, weights, target, add); break;
                    case 2: convolve_channels<T, 2>(shape, taps, channels, source, weights, target, add); break;
                    case 3: convolve_channels<T, 3>(shape, taps, channels, source, weights, target, add); break;
                    default: convolve_channels<T, TILE_VECTORS>(shape, taps, channels, source, weights, target, add);
                    }
                }
    }
}

// sums (ROWS × COLUMNS vectors, rows of GRADIENT_BLOCK) += products of the planes of dy and x, lane by lane.
template <class T, int ROWS, int COLUMNS>
__attribute__((noinline)) void gradient_tile(const T *dy, const T *x, int64_t plane, int64_t length,
                                             typename Vector<T>::type *sums) {
    using Unaligned = typename Vector<T>::unaligned;
    constexpr int64_t lanes = Vector<T>::lanes;
    typename Vector<T>::type tile[ROWS][COLUMNS];
    UNROLLED
    for (int i = 0; i < ROWS; i++) {
        UNROLLED
        for (int j = 0; j < COLUMNS; j++) tile[i][j] = sums[i * GRADIENT_BLOCK + j];
    }
    int64_t n = 0;
    for (; n + lanes <= length; n += lanes) {
        typename Vector<T>::type features[COLUMNS];
        UNROLLED
        for (int j = 0; j < COLUMNS; j++) features[j] = *(const Unaligned *)(x + j * plane + n);
        UNROLLED
        for (int i = 0; i < ROWS; i++) {
            const typename Vector<T>::type derivative = *(const Unaligned *)(dy + i * plane + n);
            UNROLLED
            for (int j = 0; j < COLUMNS; j++) tile[i][j] += derivative * features[j];
        }
    }
    UNROLLED
    for (int i = 0; i < ROWS; i++) {
        UNROLLED
        for (int j = 0; j < COLUMNS; j++) sums[i * GRADIENT_BLOCK + j] = tile[i][j];
    }
    for (; n < length; n++)
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < COLUMNS; j++) sums[i * GRADIENT_BLOCK + j][0] += dy[i * plane + n] * x[j * plane + n];
}

// The products of `rows` planes of dy and `columns` planes of x.
template <class T>
void gradient_block(int64_t rows, int64_t columns, const T *dy, const T *x, int64_t plane, int64_t length,
                    typename Vector<T>::type *sums) {
    for (int64_t i = 0, height; i < rows; i += height) {
        height = rows - i >= GRADIENT_ROWS ? GRADIENT_ROWS : 1;
        for (int64_t j = 0, width; j < columns; j += width) {
            width = columns - j >= GRADIENT_COLUMNS ? GRADIENT_COLUMNS : 1;
            const auto tile = [&](auto rows, auto columns) {
                gradient_tile<T, rows.value, columns.value>(dy + i * plane, x + j * plane, plane, length,
                                                         sums + i * GRADIENT_BLOCK + j);
            };
            const std::integral_constant<int, GRADIENT_ROWS> tall;
            const std::integral_constant<int, GRADIENT_COLUMNS> wide;
            const std::integral_constant<int, 1> one;
            if (height > 1 && width > 1) tile(tall, wide);
            else if (height > 1) tile(tall, one);
            else if (width > 1) tile(one, wide);
            else tile(one, one);
        }
    }
}

// dw (outputs, inputs, kernel, kernel) = the derivative by the weights, from x and the derivative dy by the output.
template <class T> void differentiate_weights(const Convolution &shape, const T *x, const T *dy, T *dw) {
    constexpr int64_t block = GRADIENT_BLOCK;
    const int64_t plane = shape.plane(), kernel = shape.kernel, half = kernel / 2, width = shape.width;
    const int64_t step = std::max<int64_t>(1, GRADIENT_VALUES / shape.images);
    // A block's sums of all positions of the kernel, so that its planes are read once.
    std::vector<typename Vector<T>::type> sums(kernel * kernel * block * block);
    for (int64_t o = 0; o < shape.outputs; o += block)
        for (int64_t c = 0; c < shape.inputs; c += block) {
            const int64_t rows = std::min(block, shape.outputs - o), columns = std::min(block, shape.inputs - c);
            std::fill(sums.begin(), sums.end(), typename Vector<T>::type{});
            for (int64_t i = 0; i < shape.height; i++)
                for (int64_t a = std::max<int64_t>(0, half - i); a < std::min(kernel, shape.height + half - i); a++)
                    for (int64_t start = 0; start < width; start += step)
                        for (int64_t b = 0; b < kernel; b++) {
                            const int64_t j = std::max(start, half - b);
                            const int64_t end = std::min({start + step, width, width + half - b});
                            if (end <= j) continue;
                            const T *derivative = dy + o * plane + (i * width + j) * shape.images;
                            const T *features = x + c * plane + ((i + a - half) * width + j + b - half) * shape.images;
                            gradient_block(rows, columns, derivative, features, plane, (end - j) * shape.images,
                                           &sums[(a * kernel + b) * block * block]);
                        }
            for (int64_t position = 0; position < kernel * kernel; position++)
                for (int64_t i = 0; i < rows; i++)
                    for (int64_t j = 0; j < columns; j++) {
                        const typename Vector<T>::type lanes = sums[(position * block + i) * block + j];
                        T sum = 0;
                        for (int64_t lane = 0; lane < Vector<T>::lanes; lane++) sum += lanes[lane];
                        dw[((o + i) * shape.inputs + c + j) * kernel * kernel + position] = sum;
                    }
        }
}

// Sum of term(i) for i < length, in blocks.
template <class T, class Term> double sum_of(int64_t length, Term term) {
    double total = 0;
    for (int64_t start = 0; start < length; start += SUM_LENGTH) {
        const int64_t end = std::min(length, start + SUM_LENGTH);
        T sum = 0;
        for (int64_t i = start; i < end; i++) sum += term(i);
        total += sum;
    }
    return total;
}

// Batch normalisation of `channels` planes of `length` values, then addition (of another plane, or nullptr), then the
// rectifier: y = max(0, (x − mean) γ / √(variance + ε) + β + added).
template <class T> struct Normalisation {
    int64_t channels, length, rectified;
    double epsilon;
    const T *gain, *shift;
    T *mean, *variance, *inverse;
};

template <class T> void normalise(const Normalisation<T> &norm, const T *inputs, const T *added, T *outputs) {
    for (int64_t c = 0; c < norm.channels; c++) {
        const int64_t length = norm.length;
        const T *__restrict x = inputs + c * length;
        T *__restrict y = outputs + c * length;
        const T mean = sum_of<T>(length, [=](int64_t i) { return x[i]; }) / length;
        const double variance =
            sum_of<T>(length, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / length;
        const T inverse = 1 / std::sqrt(variance + norm.epsilon), slope = inverse * norm.gain[c], shift = norm.shift[c];
        norm.mean[c] = mean;
        norm.variance[c] = variance;
        norm.inverse[c] = inverse;
        const bool rectified = norm.rectified;
        // NaN passes, as in torch.relu.
        const auto rectify = [=](T value) { return rectified && value < 0 ? 0 : value; };
        if (added == nullptr) {
            for (int64_t i = 0; i < length; i++) y[i] = rectify((x[i] - mean) * slope + shift);
        } else {
            const T *__restrict other = added + c * length;
            for (int64_t i = 0; i < length; i++) y[i] = rectify((x[i] - mean) * slope + shift + other[i]);
        }
    }
}

// From ∂L/∂y to ∂L/∂x and, where something was added, its derivative g. With g = ∂L/∂y where y > 0, zero elsewhere:
//     ∂L/∂β = Σ g    ∂L/∂γ = Σ g x̂    ∂L/∂x = γ / √(variance + ε) · (g − (Σ g + x̂ Σ g x̂) / length)
template <class T>
void differentiate_normalisation(const Normalisation<T> &norm, const T *derivatives, const T *inputs, const T *outputs,
                                 T *input_derivatives, T *added_derivatives, T *gain_gradient, T *shift_gradient) {
    for (int64_t c = 0; c < norm.channels; c++) {
        const int64_t length = norm.length;
        const T *__restrict dy = derivatives + c * length, *__restrict x = inputs + c * length;
        const T *__restrict y = outputs + c * length;
        T *__restrict dx = input_derivatives + c * length;
        T *g = added_derivatives == nullptr ? dx : added_derivatives + c * length;
        const T mean = norm.mean[c], inverse = norm.inverse[c], slope = inverse * norm.gain[c];
        const bool rectified = norm.rectified;
        for (int64_t i = 0; i < length; i++) g[i] = rectified && y[i] <= 0 ? 0 : dy[i];
        const double sum = sum_of<T>(length, [=](int64_t i) { return g[i]; });
        const double product = sum_of<T>(length, [=](int64_t i) { return g[i] * (x[i] - mean); });
        shift_gradient[c] = sum;
        gain_gradient[c] = product * inverse;
        const T constant = -slope * sum / length, tilt = -slope * inverse * inverse * product / length;
        for (int64_t i = 0; i < length; i++) dx[i] = slope * g[i] + (tilt * (x[i] - mean) + constant);
    }
}

// Maximum over windows; borders are padded by −∞.
struct Pooling {
    int64_t images, planes, height, width, kernel, stride, padding, pooled_height, pooled_width;
};

// y and the position `chosen` in the window of the first of the largest values, as in torch.
template <class T> void pool(const Pooling &shape, const T *inputs, T *outputs, int32_t *chosen) {
    const int64_t images = shape.images;
    for (int64_t p = 0; p < shape.planes; p++)
        for (int64_t i = 0; i < shape.pooled_height; i++)
            for (int64_t j = 0; j < shape.pooled_width; j++, outputs += images, chosen += images) {
                bool empty = true;
                for (int64_t a = 0; a < shape.kernel; a++)
                    for (int64_t b = 0; b < shape.kernel; b++) {
                        const int64_t u = i * shape.stride + a - shape.padding, v = j * shape.stride + b - shape.padding;
                        if (u < 0 || u >= shape.height || v < 0 || v >= shape.width) continue;
                        const T *__restrict x = inputs + ((p * shape.height + u) * shape.width + v) * images;
                        T *__restrict y = outputs;
                        int32_t *__restrict which = chosen;
                        const int32_t position = a * shape.kernel + b;
                        for (int64_t n = 0; n < images; n++) {
                            const bool larger = empty || x[n] > y[n] || x[n] != x[n];
                            y[n] = larger ? x[n] : y[n];
                            which[n] = larger ? position : which[n];
                        }
                        empty = false;
                    }
            }
}

// dx, which is zero before, from dy.
template <class T>
void differentiate_pooling(const Pooling &shape, const T *dy, const int32_t *chosen, T *input_derivatives) {
    const int64_t images = shape.images;
    for (int64_t p = 0; p < shape.planes; p++)
        for (int64_t i = 0; i < shape.pooled_height; i++)
            for (int64_t j = 0; j < shape.pooled_width; j++, dy += images, chosen += images)
                for (int64_t a = 0; a < shape.kernel; a++)
                    for (int64_t b = 0; b < shape.kernel; b++) {
                        const int64_t u = i * shape.stride + a - shape.padding, v = j * shape.stride + b - shape.padding;
                        if (u < 0 || u >= shape.height || v < 0 || v >= shape.width) continue;
                        T *__restrict dx = input_derivatives + ((p * shape.height + u) * shape.width + v) * images;
                        const int32_t position = a * shape.kernel + b;
                        for (int64_t n = 0; n < images; n++) dx[n] += chosen[n] == position ? dy[n] : 0;
                    }
}

}  // namespace

#define EXPORT(T)                                                                                                      \
    extern "C" void convolve_##T(const Convolution *shape, const T *x, const T *weights, T *y) {                       \
        convolve(*shape, x, weights, y);                                                                               \
    }                                                                                                                  \
    extern "C" void differentiate_weights_##T(const Convolution *shape, const T *x, const T *dy, T *dw) {              \
        differentiate_weights(*shape, x, dy, dw);                                                                      \
    }                                                                                                                  \
    extern "C" void normalise_##T(const Normalisation<T> *norm, const T *x, const T *added, T *y) {                    \
        normalise(*norm, x, added, y);                                                                                 \
    }                                                                                                                  \
    extern "C" void differentiate_normalisation_##T(const Normalisation<T> *norm, const T *dy, const T *x, const T *y, \
                                                    T *dx, T *dadded, T *dgain, T *dshift) {                           \
        differentiate_normalisation(*norm, dy, x, y, dx, dadded, dgain, dshift);                                       \
    }                                                                                                                  \
    extern "C" void pool_##T(const Pooling *shape, const T *x, T *y, int32_t *chosen) { pool(*shape, x, y, chosen); }  \
    extern "C" void differentiate_pooling_##T(const Pooling *shape, const T *dy, const int32_t *chosen, T *dx) {       \
        differentiate_pooling(*shape, dy, chosen, dx);                                                                 \
    }

EXPORT(float)
EXPORT(double)
