// The convolution by its definition, for all arguments. It runs where no fast kernel does, and tests compare the fast
// kernels with it.
//
// One work item computes one plane and owns it alone. Tensors of 16-bit elements are copied to float in the workspace
// and back.
#include "elements.h"
#include "kernels.h"
#include "parallel.h"

#include <cmath>
#include <limits>

namespace fastconv::cpu {
namespace {

template <class T>
T& at(const Tensor& t, int64_t n, int64_t c, int64_t h, int64_t w) {
    return static_cast<T*>(t.data)[n * t.stride[0] + c * t.stride[1] + h * t.stride[2] + w * t.stride[3]];
}

uint8_t& mask_byte(const Tensor& code, const Conv2d& conv, int64_t n, int64_t k, int64_t p, int64_t q) {
    const int64_t bytes_per_row = (conv.Q + 7) / 8;
    return static_cast<uint8_t*>(code.data)[((n * conv.P + p) * bytes_per_row + q / 8) * conv.K + k];
}

template <class T>
T conv_value(const Conv2d& conv, const FpropArgs& args, int64_t n, int64_t k, int64_t p, int64_t q) {
    const int64_t channels = conv.C / conv.groups;
    const int64_t first_c = k / (conv.K / conv.groups) * channels;
    T sum = args.bias.data ? value_at<T>(args.bias, k * args.bias.stride[0]) : T(0);
    for (int64_t r = 0; r < conv.R; ++r) {
        const int64_t h = p * conv.stride_h - conv.pad_h + r * conv.dilation_h;
        if (h < 0 || h >= conv.H) continue;
        for (int64_t s = 0; s < conv.S; ++s) {
            const int64_t w = q * conv.stride_w - conv.pad_w + s * conv.dilation_w;
            if (w < 0 || w >= conv.W) continue;
            for (int64_t c = 0; c < channels; ++c)
                sum += at<T>(args.x, n, first_c + c, h, w) * at<T>(args.w, k, c, r, s);
        }
    }
    return sum;
}

template <class T>
void fprop(const Conv2dProblem& problem, const FpropArgs& args) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    parallel_for(problem.threads, conv.N * conv.K, [&](int64_t item, int) {
        const int64_t n = item / conv.K, k = item % conv.K;
        if (!problem.epilogue.pooled) {
            for (int64_t p = 0; p < conv.P; ++p) {
                for (int64_t q = 0; q < conv.Q; ++q) {
                    T value = conv_value<T>(conv, args, n, k, p, q);
                    if (problem.epilogue.activation == Activation::relu) {
                        if (args.code.data) {
                            uint8_t& byte = mask_byte(args.code, conv, n, k, p, q);
                            if (q % 8 == 0) byte = 0;
                            if (!(value <= 0)) byte |= uint8_t(1u << (q % 8));
                        }
                        if (value < 0) value = 0;
                    }
                    at<T>(args.y, n, k, p, q) = value;
                }
            }
            return;
        }
        for (int64_t pp = 0; pp < pool.P; ++pp) {
            for (int64_t qq = 0; qq < pool.Q; ++qq) {
                T best = -std::numeric_limits<T>::infinity();
                int winner = -1;
                for (int64_t i = 0; i < pool.window_h; ++i) {
                    const int64_t p = pp * pool.stride_h - pool.pad_h + i * pool.dilation_h;
                    if (p < 0 || p >= conv.P) continue;
                    for (int64_t j = 0; j < pool.window_w; ++j) {
                        const int64_t q = qq * pool.stride_w - pool.pad_w + j * pool.dilation_w;
                        if (q < 0 || q >= conv.Q) continue;
                        const T value = conv_value<T>(conv, args, n, k, p, q);
                        if (winner < 0 || value > best || std::isnan(value)) {
                            best = value;
                            winner = int(i * pool.window_w + j);
                        }
                    }
                }
                // relu(max(.)) is max(relu(.)). A window without input stays at -inf, as in torch.
                if (winner >= 0 && best <= 0) winner = dead;
                if (winner == dead) best = 0;
                at<T>(args.y, n, k, pp, qq) = best;
                if (args.code.data) at<uint8_t>(args.code, n, k, pp, qq) = uint8_t(winner < 0 ? dead : winner);
            }
        }
    });
}

// Calls visit(p, q, g) for every position of the convolution's output that gradient g passes to.
template <class T, class Visit>
void for_each_live(const Conv2dProblem& problem, const Tensor& dy, const Tensor& code, int64_t n, int64_t k,
                   const Visit& visit) {
    const Pool2d& pool = problem.pool;
    for (int64_t pp = 0; pp < pool.P; ++pp) {
        for (int64_t qq = 0; qq < pool.Q; ++qq) {
            const T g = at<T>(dy, n, k, pp, qq);
            int winner = 0;
            if (problem.epilogue.pooled) {
                winner = at<uint8_t>(code, n, k, pp, qq);
                if (winner == dead) continue;
            } else if (problem.epilogue.activation == Activation::relu) {
                if (!(mask_byte(code, problem.conv, n, k, pp, qq) >> (qq % 8) & 1)) continue;
            }
            if (g == 0) continue;
            const int64_t p = pp * pool.stride_h - pool.pad_h + winner / pool.window_w * pool.dilation_h;
            const int64_t q = qq * pool.stride_w - pool.pad_w + winner % pool.window_w * pool.dilation_w;
            if (p >= 0 && p < problem.conv.P && q >= 0 && q < problem.conv.Q) visit(p, q, g);
        }
    }
}

template <class T>
void dgrad(const Conv2dProblem& problem, const DgradArgs& args) {
    const Conv2d& conv = problem.conv;
    const int64_t channels = conv.C / conv.groups, filters = conv.K / conv.groups;
    parallel_for(problem.threads, conv.N * conv.C, [&](int64_t item, int) {
        const int64_t n = item / conv.C, c = item % conv.C, group = c / channels;
        for (int64_t h = 0; h < conv.H; ++h)
            for (int64_t w = 0; w < conv.W; ++w) at<T>(args.dx, n, c, h, w) = 0;
        for (int64_t k = group * filters; k < (group + 1) * filters; ++k) {
            for_each_live<T>(problem, args.dy, args.code, n, k, [&](int64_t p, int64_t q, T g) {
                for (int64_t r = 0; r < conv.R; ++r) {
                    const int64_t h = p * conv.stride_h - conv.pad_h + r * conv.dilation_h;
                    if (h < 0 || h >= conv.H) continue;
                    for (int64_t s = 0; s < conv.S; ++s) {
                        const int64_t w = q * conv.stride_w - conv.pad_w + s * conv.dilation_w;
                        if (w < 0 || w >= conv.W) continue;
                        at<T>(args.dx, n, c, h, w) += g * at<T>(args.w, k, c % channels, r, s);
                    }
                }
            });
        }
    });
}

template <class T>
void wgrad(const Conv2dProblem& problem, const WgradArgs& args) {
    const Conv2d& conv = problem.conv;
    const int64_t channels = conv.C / conv.groups;
    parallel_for(problem.threads, conv.K * channels, [&](int64_t item, int) {
        const int64_t k = item / channels, c = item % channels;
        const int64_t x_channel = k / (conv.K / conv.groups) * channels + c;
        if (args.dw.data)
            for (int64_t r = 0; r < conv.R; ++r)
                for (int64_t s = 0; s < conv.S; ++s) at<T>(args.dw, k, c, r, s) = 0;
        double bias_sum = 0;
        for (int64_t n = 0; n < conv.N; ++n) {
            for_each_live<T>(problem, args.dy, args.code, n, k, [&](int64_t p, int64_t q, T g) {
                bias_sum += g;
                if (!args.dw.data) return;
                for (int64_t r = 0; r < conv.R; ++r) {
                    const int64_t h = p * conv.stride_h - conv.pad_h + r * conv.dilation_h;
                    if (h < 0 || h >= conv.H) continue;
                    for (int64_t s = 0; s < conv.S; ++s) {
                        const int64_t w = q * conv.stride_w - conv.pad_w + s * conv.dilation_w;
                        if (w < 0 || w >= conv.W) continue;
                        at<T>(args.dw, k, c, r, s) += g * at<T>(args.x, n, x_channel, h, w);
                    }
                }
            });
        }
        if (args.dbias.data && c == 0) set_value<T>(args.dbias, k * args.dbias.stride[0], T(bias_sum));
    });
}

bool any_problem(const Conv2dProblem&) { return true; }

// The tensors of a direction: it reads two of x, w and y and writes the third.
void tensors_of(FpropArgs& args, Tensor* (&tensors)[3]) {
    tensors[0] = &args.x, tensors[1] = &args.w, tensors[2] = &args.y;
}
void tensors_of(DgradArgs& args, Tensor* (&tensors)[3]) {
    tensors[0] = &args.dy, tensors[1] = &args.w, tensors[2] = &args.dx;
}
void tensors_of(WgradArgs& args, Tensor* (&tensors)[3]) {
    tensors[0] = &args.x, tensors[1] = &args.dy, tensors[2] = &args.dw;
}

size_t workspace(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    if (element_bytes(problem.dtype) > 2) return 0;
    const int64_t x = conv.N * conv.C * conv.H * conv.W, w = conv.K * (conv.C / conv.groups) * conv.R * conv.S;
    return size_t(x + w + conv.N * conv.K * problem.pool.P * problem.pool.Q) * sizeof(float);
}

// A contiguous tensor of floats of that size.
Tensor as_float(const Tensor& like, float* data) {
    Tensor t = like;
    t.data = data, t.dtype = DType::float32;
    for (int64_t d = 3, step = 1; d >= 0; step *= t.size[d--]) t.stride[d] = step;
    return t;
}

void copy(const Tensor& from, const Tensor& to, int threads) {
    const auto offset = [](const Tensor& t, int64_t n, int64_t c, int64_t h) {
        return n * t.stride[0] + c * t.stride[1] + h * t.stride[2];
    };
    with_elements<float>(from, [&](const auto* src) {
        with_elements<float>(to, [&](auto* dst) {
            parallel_for(threads, from.size[0] * from.size[1], [&](int64_t item, int) {
                const int64_t n = item / from.size[1], c = item % from.size[1];
                for (int64_t h = 0; h < from.size[2]; ++h) {
                    const auto* src_row = src + offset(from, n, c, h);
                    auto* dst_row = dst + offset(to, n, c, h);
                    for (int64_t w = 0; w < from.size[3]; ++w)
                        assign(dst_row[w * to.stride[3]], float(src_row[w * from.stride[3]]));
                }
            });
        });
    });
}

template <class Args, void (*for_float)(const Conv2dProblem&, const Args&),
          void (*for_double)(const Conv2dProblem&, const Args&)>
void run(const Conv2dProblem& problem, const Args& args, const Launch& launch) {
    if (problem.dtype == DType::float32) return for_float(problem, args);
    if (problem.dtype == DType::float64) return for_double(problem, args);
    Args copies = args;
    Tensor* tensors[3];
    tensors_of(copies, tensors);
    const Tensor output = *tensors[2];
    float* data = static_cast<float*>(launch.workspace);
    for (Tensor* tensor : tensors) {
        if (!tensor->data) continue;
        const Tensor original = *tensor;
        *tensor = as_float(original, data);
        data += original.size[0] * original.size[1] * original.size[2] * original.size[3];
        if (tensor != tensors[2]) copy(original, *tensor, problem.threads);
    }
    for_float(problem, copies);
    if (output.data) copy(*tensors[2], output, problem.threads);
}

}  // namespace

const Implementation<FpropArgs> plain_fprop = {"plain",   "any problem", any_problem,
                                               workspace, nullptr,       run<FpropArgs, fprop<float>, fprop<double>>};
const Implementation<DgradArgs> plain_dgrad = {"plain",   "any problem", any_problem,
                                               workspace, nullptr,       run<DgradArgs, dgrad<float>, dgrad<double>>};
const Implementation<WgradArgs> plain_wgrad = {"plain",   "any problem", any_problem,
                                               workspace, nullptr,       run<WgradArgs, wgrad<float>, wgrad<double>>};

}  // namespace fastconv::cpu
