// One feed-forward network's training epoch on one core: no dispatch between operations, memory that stays in cache.
//
// Activations have the layout (channel, image), rows of `stride` values. Of each hidden layer only z = W x (+ bias) is
// kept for the backward pass; its output is computed from z again where it is needed, which is faster than reading it
// from memory. Sums may be reassociated by the compiler, but in one way for all runs: results depend on the arguments
// and the binary alone. NaN and infinity propagate. native.py describes the structures and is their only caller.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef PROFILE
#include <chrono>
#endif

#include "vectors.h"

namespace {

// With -DPROFILE the seconds of each operation are added up (benchmarks/operations.py).
enum Operation { GATHER, FORWARD, STATISTICS, OUTPUT, LOSS, DERIVATIVE, TRANSPOSE, WEIGHT, INPUT, UPDATE, OPERATIONS };
#ifdef PROFILE
double seconds[OPERATIONS];
struct Timer {
    using Clock = std::chrono::steady_clock;
    const Operation operation;
    const Clock::time_point start = Clock::now();
    explicit Timer(Operation operation) : operation(operation) {}
    ~Timer() { seconds[operation] += std::chrono::duration<double>(Clock::now() - start).count(); }
};
#else
struct Timer {
    explicit Timer(Operation) {}
};
#endif

// Rows of the right factor that stay in the first-level cache, TILE_VECTORS wide, while all rows of the left one pass.
constexpr int64_t TILE_DEPTH = 128;

// Writes the first `width` lanes of a vector.
template <class T> inline void store(T *target, typename Vector<T>::type vector, int64_t width) {
    if (width >= Vector<T>::lanes) {
        *(typename Vector<T>::unaligned *)target = vector;
    } else {
        for (int64_t lane = 0; lane < width; lane++) target[lane] = vector[lane];
    }
}

// A matrix that is read: element (i, j) is at data[i * row + j * column].
template <class T> struct View {
    const T *data;
    int64_t row, column;
    const T *at(int64_t i, int64_t j) const { return data + i * row + j * column; }
};

// c (ROWS × columns, at most VECTORS vectors) = or += a · b. b and c are read up to the end of their last vector.
template <class T, int ROWS, int VECTORS>
inline __attribute__((always_inline)) void multiply_tile(int64_t depth, View<T> a, View<T> b, T *c, int64_t stride,
                                                         int64_t columns, bool add) {
    using Unaligned = typename Vector<T>::unaligned;
    constexpr int64_t lanes = Vector<T>::lanes;
    typename Vector<T>::type sums[ROWS][VECTORS] = {};
    for (int64_t k = 0; k < depth; k++) {
        typename Vector<T>::type right[VECTORS];
        UNROLLED
        for (int v = 0; v < VECTORS; v++) right[v] = *(const Unaligned *)b.at(k, v * lanes);
        UNROLLED
        for (int i = 0; i < ROWS; i++) {
            const T left = *a.at(i, k);
            UNROLLED
            for (int v = 0; v < VECTORS; v++) sums[i][v] += left * right[v];
        }
    }
    UNROLLED
    for (int i = 0; i < ROWS; i++) {
        UNROLLED
        for (int v = 0; v < VECTORS; v++) {
            T *target = c + i * stride + v * lanes;
            if (add) sums[i][v] += *(const Unaligned *)target;
            if (v < VECTORS - 1 || columns >= VECTORS * lanes) {
                *(Unaligned *)target = sums[i][v];
            } else {
                store<T>(target, sums[i][v], columns - v * lanes);
            }
        }
    }
}

template <class T, int VECTORS>
void multiply_panel(int64_t rows, int64_t depth, View<T> a, View<T> b, T *c, int64_t stride, int64_t columns, bool add) {
    int64_t i = 0;
    const auto left = [&] { return View<T>{a.at(i, 0), a.row, a.column}; };
    for (; i + TILE_ROWS <= rows; i += TILE_ROWS)
        multiply_tile<T, TILE_ROWS, VECTORS>(depth, left(), b, c + i * stride, stride, columns, add);
    for (; i + 4 <= rows; i += 4) multiply_tile<T, 4, VECTORS>(depth, left(), b, c + i * stride, stride, columns, add);
    for (; i < rows; i++) multiply_tile<T, 1, VECTORS>(depth, left(), b, c + i * stride, stride, columns, add);
}

// c (rows × columns, rows of `stride` values) = a (rows × depth) · b (depth × columns, b.column = 1).
template <class T>
void multiply(Operation operation, int64_t rows, int64_t columns, int64_t depth, View<T> a, View<T> b, T *c,
              int64_t stride) {
    const Timer timer(operation);
    constexpr int64_t lanes = Vector<T>::lanes;
    for (int64_t k = 0; k < depth; k += TILE_DEPTH) {
        const int64_t part = std::min(depth - k, TILE_DEPTH);
        const View<T> left{a.at(0, k), a.row, a.column};
        int64_t j = 0;
        while (j < columns) {
            const View<T> right{b.at(k, j), b.row, 1};
            const int64_t vectors = std::min<int64_t>((columns - j + lanes - 1) / lanes, TILE_VECTORS);
            switch (vectors) {
            case 1: multiply_panel<T, 1>(rows, part, left, right, c + j, stride, columns - j, k > 0); break;
            case 2: multiply_panel<T, 2>(rows, part, left, right, c + j, stride, columns - j, k > 0); break;
            case 3: multiply_panel<T, 3>(rows, part, left, right, c + j, stride, columns - j, k > 0); break;
            default: multiply_panel<T, 4>(rows, part, left, right, c + j, stride, columns - j, k > 0);
            }
            j += vectors * lanes;
        }
    }
}

// Lanes of two vectors by their number, as __builtin_shuffle, which clang does not have.
template <class V, class I> inline V shuffle(V one, V other, I numbers) {
#ifdef __clang__
    constexpr int lanes = sizeof(V) / sizeof(one[0]);
    V result;
    for (int lane = 0; lane < lanes; lane++)
        result[lane] = numbers[lane] < lanes ? one[numbers[lane]] : other[numbers[lane] - lanes];
    return result;
#else
    return __builtin_shuffle(one, other, numbers);
#endif
}

// Transposes a square block of vectors in registers: rows and lanes exchange one bit of their numbers at a time.
template <class T, int DISTANCE = 1> inline void transpose_block(typename Vector<T>::type *rows) {
    constexpr int lanes = Vector<T>::lanes;
    if constexpr (DISTANCE < lanes) {
        typename Vector<T>::indices low, high;
        UNROLLED
        for (int lane = 0; lane < lanes; lane++) {
            low[lane] = lane & DISTANCE ? lanes + lane - DISTANCE : lane;
            high[lane] = lane & DISTANCE ? lanes + lane : lane + DISTANCE;
        }
        UNROLLED
        for (int i = 0; i < lanes; i++) {
            if (i & DISTANCE) continue;
            const typename Vector<T>::type one = rows[i], other = rows[i + DISTANCE];
            rows[i] = shuffle(one, other, low);
            rows[i + DISTANCE] = shuffle(one, other, high);
        }
        transpose_block<T, 2 * DISTANCE>(rows);
    }
}

// target (columns × rows) = source (rows × columns) transposed, each vector of a row changed by change(row, vector).
// The source is read up to a whole block of vectors.
template <class T, class Change>
void transpose(const T *source, int64_t source_stride, int64_t rows, int64_t columns, T *target, int64_t target_stride,
               Change change) {
    constexpr int64_t lanes = Vector<T>::lanes;
    typename Vector<T>::type block[lanes];
    for (int64_t i = 0; i < rows; i += lanes)
        for (int64_t j = 0; j < columns; j += lanes) {
            UNROLLED
            for (int64_t k = 0; k < lanes; k++) {
                const T *row = source + (i + k) * source_stride + j;
                block[k] = change(std::min(i + k, rows - 1), *(const typename Vector<T>::unaligned *)row);
            }
            transpose_block<T>(block);
            const int64_t height = std::min(columns - j, lanes), width = std::min(rows - i, lanes);
            UNROLLED
            for (int64_t k = 0; k < lanes; k++) {
                if (k < height) store<T>(target + (j + k) * target_stride + i, block[k], width);
            }
        }
}

// A tensor of parameters with the two moments of its optimizer: Adam's, or the velocity of SGD with momentum and none.
template <class T> struct Parameter {
    T *value, *first, *second;
    int64_t size;
};

enum Normalisation : int64_t { NONE = 0, BATCH = 1, LAYER = 2 };
enum Learning : int64_t { FROZEN = 0, TRAINED = 1, DECAYED = 2 };
enum Rule : int64_t { SGD = 0, ADAM = 1 };

// A linear layer and, if it is hidden and normalised, its normalisation: gain γ, shift β, running mean and variance.
template <class T> struct Layer {
    int64_t inputs, outputs, learning, updates;
    Parameter<T> weight, bias, gain, shift;
    T *running_mean, *running_variance;
};

template <class T> struct Network {
    int64_t images, batch_size, layers, normalisation, rectified, rule;
    double rate, momentum, weight_decay, epsilon, running_momentum;
    Layer<T> *layer;
};

constexpr double ADAM_FIRST = 0.9, ADAM_SECOND = 0.999, ADAM_EPSILON = 1e-8;

// w ← the optimizer's update by the gradient, or by zeros without one, plus weight decay (as in torch.optim).
template <class T> void update(const Network<T> &network, int64_t updates, Parameter<T> parameter, const T *gradient) {
    const Timer timer(UPDATE);
    constexpr int64_t BLOCK = 256;
    const T decay = network.weight_decay;
    T g[BLOCK];
    for (int64_t start = 0; start < parameter.size; start += BLOCK) {
        const int64_t size = std::min(BLOCK, parameter.size - start);
        T *__restrict w = parameter.value + start;
        if (gradient == nullptr) {
            for (int64_t i = 0; i < size; i++) g[i] = decay * w[i];
        } else {
            const T *__restrict source = gradient + start;
            for (int64_t i = 0; i < size; i++) g[i] = source[i] + decay * w[i];
        }
        if (network.rule == ADAM) {
            const T correction = 1 / std::sqrt(1 - std::pow(ADAM_SECOND, updates));
            const T rate = network.rate / (1 - std::pow(ADAM_FIRST, updates));
            const T one = 1 - ADAM_FIRST, two = 1 - ADAM_SECOND, keep = ADAM_SECOND, epsilon = ADAM_EPSILON;
            T *__restrict m = parameter.first + start, *__restrict v = parameter.second + start;
            for (int64_t i = 0; i < size; i++) {
                m[i] += one * (g[i] - m[i]);
                v[i] = keep * v[i] + two * g[i] * g[i];
                w[i] -= rate * m[i] / (std::sqrt(v[i]) * correction + epsilon);
            }
        } else if (network.momentum != 0) {
            const T rate = network.rate, momentum = network.momentum;
            T *__restrict velocity = parameter.first + start;
            for (int64_t i = 0; i < size; i++) {
                velocity[i] = momentum * velocity[i] + g[i];
                w[i] -= rate * velocity[i];
            }
        } else {
            const T rate = network.rate;
            for (int64_t i = 0; i < size; i++) w[i] -= rate * g[i];
        }
    }
}

// Per channel of a layer: its output is max(0, (z − mean) · slope + offset), without the maximum if not rectified. With
// layer normalisation mean and inverse, 1/√(variance + ε), are those of each image: max(0, (z − mean) · inverse · γ + β).
template <class T> struct Channels {
    T *z, *mean, *inverse, *slope, *offset;
};

// NaN passes, as in torch.relu.
template <class T> inline T rectify(T value, bool rectified) { return rectified && value < 0 ? 0 : value; }

template <class T> class Epoch {
  public:
    // Memory is handed out from `workspace`; with nullptr only its size is counted.
    Epoch(const Network<T> &network, T *workspace) : network(network), start(workspace), next(workspace) {
        const Layer<T> *layers = network.layer;
        const int64_t last = network.layers - 1;
        batch_size = std::min(network.batch_size, network.images);
        stride = padded(batch_size);
        widest = layers[0].inputs;
        largest = 0;
        for (int64_t l = 0; l <= last; l++) {
            widest = std::max(widest, layers[l].outputs);
            largest = std::max(largest, layers[l].outputs * layers[l].inputs);
        }
        // A transposition reads whole blocks: rows beyond those of the batch.
        const int64_t block = Vector<T>::lanes;
        rows = take((batch_size + block) * padded(layers[0].inputs));
        outputs = take(widest * stride);
        derivative = take(widest * stride);
        linear_derivative = take(widest * stride);
        transposed = take(batch_size * padded(widest));
        gradient = take(largest);
        vector_gradient = take(3 * widest);
        targets = (int64_t *)take(batch_size * (int64_t)(sizeof(int64_t) / sizeof(T)));
        maximum = take(batch_size);
        normaliser = take(batch_size);
        image_sum = take(batch_size);
        image_product = take(batch_size);
        for (int64_t l = 0; l < last; l++) {
            const int64_t width = layers[l].outputs;
            const int64_t averages = network.normalisation == LAYER ? stride : width;
            channels.push_back({take(width * stride), take(averages), take(averages), take(width), take(width)});
        }
        take(block * stride);
    }

    int64_t size() const { return total; }

    void run(const T *inputs, const int64_t *labels, const int64_t *order, double *loss, int64_t *correct) {
        *loss = 0;
        *correct = 0;
        for (int64_t first = 0; first < network.images; first += batch_size) {
            images = std::min(batch_size, network.images - first);
            gather(inputs, labels, order + first);
            forward();
            *loss += loss_and_derivative(correct);
            backward();
        }
    }

  private:
    const Network<T> &network;
    T *start, *next;
    int64_t total = 0;
    int64_t batch_size, stride, widest, largest, images = 0;
    T *rows, *outputs, *derivative, *linear_derivative, *transposed, *gradient, *vector_gradient, *maximum, *normaliser;
    T *image_sum, *image_product;
    int64_t *targets;
    std::vector<Channels<T>> channels;

    // The length of a row: an odd number of cache lines, so that the rows of a panel do not share sets of the cache.
    static int64_t padded(int64_t values) {
        const int64_t line = 64 / sizeof(T);
        return ((values + line - 1) / line | 1) * line;
    }

    // Every array begins on a cache line and is followed by one, since vectors are read past the end of a row.
    T *take(int64_t size) {
        const int64_t line = 64 / sizeof(T), padded = (size + line - 1) / line * line + line;
        T *result = start == nullptr ? nullptr : next;
        if (start != nullptr) next += padded;
        total += padded;
        return result;
    }

    void gather(const T *inputs, const int64_t *labels, const int64_t *order) {
        const Timer timer(GATHER);
        const int64_t values = network.layer[0].inputs;
        for (int64_t i = 0; i < images; i++) {
            std::memcpy(rows + i * padded(values), inputs + order[i] * values, values * sizeof(T));
            targets[i] = labels[order[i]];
        }
        transpose(rows, padded(values), images, values, outputs, stride, [](int64_t, auto vector) { return vector; });
    }

    void forward() {
        const int64_t last = network.layers - 1;
        for (int64_t l = 0; l < last; l++) {
            Layer<T> &layer = network.layer[l];
            multiply<T>(FORWARD, layer.outputs, images, layer.inputs, {layer.weight.value, layer.inputs, 1},
                        {outputs, stride, 1}, channels[l].z, stride);
            if (network.normalisation == BATCH) {
                normalise(layer, channels[l]);
            } else if (network.normalisation == LAYER) {
                normalise_images(layer, channels[l]);
            } else {
                for (int64_t c = 0; c < layer.outputs; c++) {
                    channels[l].mean[c] = 0;
                    channels[l].slope[c] = 1;
                    channels[l].offset[c] = layer.bias.value[c];
                }
            }
            const Timer timer(OUTPUT);
            for (int64_t c = 0; c < layer.outputs; c++) write_output(layer, channels[l], c, outputs + c * stride);
        }
        const Layer<T> &classifier = network.layer[last];
        multiply<T>(FORWARD, classifier.outputs, images, classifier.inputs,
                    {classifier.weight.value, classifier.inputs, 1}, {outputs, stride, 1}, linear_derivative, stride);
    }

    // Mean and 1/√(variance + ε) of each channel over the batch, and the running statistics.
    void normalise(Layer<T> &layer, Channels<T> &channel) {
        const Timer timer(STATISTICS);
        const T share = T(1) / images, keep = 1 - network.running_momentum, take_in = network.running_momentum;
        for (int64_t c = 0; c < layer.outputs; c++) {
            const T *__restrict z = channel.z + c * stride;
            T sum = 0, squares = 0;
            for (int64_t i = 0; i < images; i++) sum += z[i];
            const T mean = sum * share;
            for (int64_t i = 0; i < images; i++) squares += (z[i] - mean) * (z[i] - mean);
            const T variance = squares * share;
            channel.mean[c] = mean;
            channel.inverse[c] = 1 / std::sqrt(variance + T(network.epsilon));
            channel.slope[c] = channel.inverse[c] * layer.gain.value[c];
            channel.offset[c] = layer.shift.value[c];
            // The bias only shifts the mean.
            layer.running_mean[c] = keep * layer.running_mean[c] + take_in * (mean + layer.bias.value[c]);
            const T unbiased = squares / (images - 1);
            layer.running_variance[c] = keep * layer.running_variance[c] + take_in * unbiased;
        }
    }

    // Adds the bias to z; mean and 1/√(variance + ε) of each image over the channels.
    void normalise_images(const Layer<T> &layer, Channels<T> &channel) {
        const Timer timer(STATISTICS);
        T *__restrict mean = channel.mean, *__restrict inverse = channel.inverse;
        for (int64_t i = 0; i < images; i++) mean[i] = inverse[i] = 0;
        for (int64_t c = 0; c < layer.outputs; c++) {
            T *__restrict z = channel.z + c * stride;
            const T bias = layer.bias.value[c];
            for (int64_t i = 0; i < images; i++) mean[i] += z[i] += bias;
        }
        for (int64_t i = 0; i < images; i++) mean[i] /= layer.outputs;
        for (int64_t c = 0; c < layer.outputs; c++) {
            const T *__restrict z = channel.z + c * stride;
            for (int64_t i = 0; i < images; i++) inverse[i] += (z[i] - mean[i]) * (z[i] - mean[i]);
        }
        for (int64_t i = 0; i < images; i++) inverse[i] = 1 / std::sqrt(inverse[i] / layer.outputs + T(network.epsilon));
    }

    void write_output(const Layer<T> &layer, const Channels<T> &channel, int64_t c, T *__restrict target) const {
        const T *__restrict z = channel.z + c * stride;
        const bool rectified = network.rectified;
        if (network.normalisation == LAYER) {
            const T *__restrict means = channel.mean, *__restrict inverse = channel.inverse;
            const T gain = layer.gain.value[c], shift = layer.shift.value[c];
            for (int64_t i = 0; i < images; i++)
                target[i] = rectify((z[i] - means[i]) * inverse[i] * gain + shift, rectified);
            return;
        }
        const T mean = channel.mean[c], slope = channel.slope[c], offset = channel.offset[c];
        for (int64_t i = 0; i < images; i++) target[i] = rectify((z[i] - mean) * slope + offset, rectified);
    }

    // Returns the sum of the images' cross-entropy, in nats; the logits become the derivative of its mean.
    double loss_and_derivative(int64_t *correct) {
        const Timer timer(LOSS);
        const Layer<T> &classifier = network.layer[network.layers - 1];
        const int64_t classes = classifier.outputs;
        T *logits = linear_derivative;
        for (int64_t k = 0; k < classes; k++)
            for (int64_t i = 0; i < images; i++) {
                const T logit = logits[k * stride + i] += classifier.bias.value[k];
                if (k == 0 || logit > maximum[i]) maximum[i] = logit;
            }
        double loss = 0;
        for (int64_t i = 0; i < images; i++) {
            // The first of the largest logits, as in torch.argmax.
            int64_t predicted = 0;
            while (predicted < classes - 1 && logits[predicted * stride + i] != maximum[i]) predicted++;
            *correct += predicted == targets[i];
            loss += maximum[i] - logits[targets[i] * stride + i];
            normaliser[i] = 0;
        }
        for (int64_t k = 0; k < classes; k++)
            for (int64_t i = 0; i < images; i++) {
                logits[k * stride + i] = std::exp(logits[k * stride + i] - maximum[i]);
                normaliser[i] += logits[k * stride + i];
            }
        for (int64_t i = 0; i < images; i++) {
            loss += std::log(normaliser[i]);
            normaliser[i] = 1 / (normaliser[i] * images);
        }
        for (int64_t k = 0; k < classes; k++)
            for (int64_t i = 0; i < images; i++) logits[k * stride + i] *= normaliser[i];
        for (int64_t i = 0; i < images; i++) logits[targets[i] * stride + i] -= T(1) / images;
        return loss;
    }

    void backward() {
        const int64_t last = network.layers - 1;
        // Below the first layer that learns, no derivative is needed.
        int64_t lowest = 0;
        while (lowest < last && network.layer[lowest].learning != TRAINED) lowest++;
        for (int64_t l = last; l >= 0; l--) {
            Layer<T> &layer = network.layer[l];
            const bool hidden = l < last, trained = layer.learning == TRAINED;
            T *gain_gradient = vector_gradient, *shift_gradient = vector_gradient + widest;
            T *bias_gradient = vector_gradient + 2 * widest;
            if (l >= lowest) {
                if (hidden && network.normalisation == LAYER) {
                    differentiate_images(layer, channels[l], gain_gradient, shift_gradient, bias_gradient);
                } else if (hidden) {
                    differentiate_output(layer, channels[l], gain_gradient, shift_gradient);
                } else {
                    for (int64_t c = 0; c < layer.outputs; c++) {
                        shift_gradient[c] = 0;
                        for (int64_t i = 0; i < images; i++) shift_gradient[c] += linear_derivative[c * stride + i];
                    }
                }
                if (trained) {
                    const T *inputs = l == 0 ? rows : transposed_output(l - 1);
                    multiply<T>(WEIGHT, layer.outputs, layer.inputs, images, {linear_derivative, stride, 1},
                                {inputs, padded(layer.inputs), 1}, gradient, layer.inputs);
                }
                if (l > lowest) {
                    multiply<T>(INPUT, layer.inputs, images, layer.outputs, {layer.weight.value, 1, layer.inputs},
                                {linear_derivative, stride, 1}, derivative, stride);
                }
            }
            if (layer.learning == FROZEN) continue;
            layer.updates++;
            const bool normalised = hidden && network.normalisation != NONE;
            update(network, layer.updates, layer.weight, trained ? gradient : nullptr);
            // Before batch normalisation a bias has no effect, and no gradient.
            const T *gradients[] = {shift_gradient, nullptr, bias_gradient};
            const T *of_bias = gradients[hidden ? network.normalisation : NONE];
            update(network, layer.updates, layer.bias, trained ? of_bias : nullptr);
            if (normalised) {
                update(network, layer.updates, layer.gain, trained ? gain_gradient : nullptr);
                update(network, layer.updates, layer.shift, trained ? shift_gradient : nullptr);
            }
        }
    }

    // The output of a hidden layer as rows, an image each.
    const T *transposed_output(int64_t l) {
        const Timer timer(TRANSPOSE);
        const int64_t width = network.layer[l].outputs;
        const Channels<T> channel = channels[l];
        const bool rectified = network.rectified;
        if (network.normalisation == LAYER) {
            const Layer<T> &layer = network.layer[l];
            // Written once and transposed: the averages are those of images, which the vectors of a row are.
            for (int64_t c = 0; c < width; c++) write_output(layer, channel, c, outputs + c * stride);
            transpose(outputs, stride, width, images, transposed, padded(width), [](int64_t, auto y) { return y; });
            return transposed;
        }
        transpose(channel.z, stride, width, images, transposed, padded(width), [=](int64_t c, auto z) {
            const typename Vector<T>::type value = (z - channel.mean[c]) * channel.slope[c] + channel.offset[c];
            return rectified ? (value < 0 ? typename Vector<T>::type{} : value) : value;
        });
        return transposed;
    }

    // From ∂L/∂y in `derivative` to ∂L/∂z in `linear_derivative`. With g = ∂L/∂y where y > 0 and zero elsewhere:
    //     ∂L/∂β = Σ g    ∂L/∂γ = Σ g ẑ    ∂L/∂z = γ / √(var + ε) · (g − (Σ g + ẑ Σ g ẑ) / b)
    void differentiate_output(const Layer<T> &layer, const Channels<T> &channel, T *gain_gradient, T *shift_gradient) {
        const Timer timer(DERIVATIVE);
        const bool rectified = network.rectified;
        for (int64_t c = 0; c < layer.outputs; c++) {
            const T *__restrict z = channel.z + c * stride, *__restrict dy = derivative + c * stride;
            T *__restrict dz = linear_derivative + c * stride;
            const T mean = channel.mean[c], slope = channel.slope[c], offset = channel.offset[c];
            T sum = 0, product = 0;
            for (int64_t i = 0; i < images; i++) {
                const T centred = z[i] - mean;
                const T g = rectified && centred * slope + offset <= 0 ? 0 : dy[i];
                dz[i] = g;
                sum += g;
                product += g * centred;
            }
            shift_gradient[c] = sum;
            if (network.normalisation != BATCH) continue;
            gain_gradient[c] = product * channel.inverse[c];
            const T constant = -slope * sum / images, tilt = -slope * channel.inverse[c] * gain_gradient[c] / images;
            for (int64_t i = 0; i < images; i++) dz[i] = slope * dz[i] + (tilt * (z[i] - mean) + constant);
        }
    }

    // The same for layer normalisation of w channels. With h = γ g:
    //     ∂L/∂β = Σ g    ∂L/∂γ = Σ g ẑ, over images    ∂L/∂z = 1 / √(var + ε) · (h − (Σ h + ẑ Σ h ẑ) / w), over channels
    void differentiate_images(const Layer<T> &layer, const Channels<T> &channel, T *gain_gradient, T *shift_gradient,
                              T *bias_gradient) {
        const Timer timer(DERIVATIVE);
        const bool rectified = network.rectified;
        const T *__restrict mean = channel.mean, *__restrict inverse = channel.inverse;
        T *__restrict sums = image_sum, *__restrict products = image_product;
        for (int64_t i = 0; i < images; i++) sums[i] = products[i] = 0;
        for (int64_t c = 0; c < layer.outputs; c++) {
            const T *__restrict z = channel.z + c * stride, *__restrict dy = derivative + c * stride;
            T *__restrict dz = linear_derivative + c * stride;
            const T gain = layer.gain.value[c], shift = layer.shift.value[c];
            T sum = 0, product = 0;
            for (int64_t i = 0; i < images; i++) {
                const T normalised = (z[i] - mean[i]) * inverse[i];
                const T g = rectified && normalised * gain + shift <= 0 ? 0 : dy[i];
                dz[i] = gain * g;
                sum += g;
                product += g * normalised;
                sums[i] += gain * g;
                products[i] += gain * g * normalised;
            }
            shift_gradient[c] = sum;
            gain_gradient[c] = product;
        }
        const T share = T(1) / layer.outputs;
        for (int64_t c = 0; c < layer.outputs; c++) {
            const T *__restrict z = channel.z + c * stride;
            T *__restrict dz = linear_derivative + c * stride;
            T sum = 0;
            for (int64_t i = 0; i < images; i++) {
                const T normalised = (z[i] - mean[i]) * inverse[i];
                dz[i] = inverse[i] * (dz[i] - (sums[i] + normalised * products[i]) * share);
                sum += dz[i];
            }
            bias_gradient[c] = sum;
        }
    }
};

}  // namespace

#define EXPORT(T)                                                                                                      \
    extern "C" int64_t workspace_size_##T(const Network<T> *network) { return Epoch<T>(*network, nullptr).size(); }    \
    extern "C" void run_epoch_##T(const Network<T> *network, const T *inputs, const int64_t *labels,                   \
                                  const int64_t *order, T *workspace, double *loss, int64_t *correct) {                \
        Epoch<T>(*network, workspace).run(inputs, labels, order, loss, correct);                                       \
    }

EXPORT(float)
EXPORT(double)

#ifdef PROFILE
extern "C" double *operation_seconds() { return seconds; }
#endif
