// The convolution as its definition says, for every argument: what runs where no fast kernel applies,
// and what the fast kernels are tested against. One work item computes one plane and owns it alone.
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
    T sum = args.bias.data ? static_cast<const T*>(args.bias.data)[k * args.bias.stride[0]] : T(0);
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
        if (problem.epilogue != Epilogue::relu_max_pool) {
            for (int64_t p = 0; p < conv.P; ++p) {
                for (int64_t q = 0; q < conv.Q; ++q) {
                    T value = conv_value<T>(conv, args, n, k, p, q);
                    if (problem.epilogue == Epilogue::relu) {
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
                // relu(max(.)) is max(relu(.)); a window with no input stays at -inf, as in torch.
                if (winner >= 0 && best <= 0) winner = dead;
                if (winner == dead) best = 0;
                at<T>(args.y, n, k, pp, qq) = best;
                if (args.code.data) at<uint8_t>(args.code, n, k, pp, qq) = uint8_t(winner < 0 ? dead : winner);
            }
        }
    });
}

// Calls visit(p, q, g) for every position of the convolution's output through which gradient g flows.
template <class T, class Visit>
void for_each_live(const Conv2dProblem& problem, const Tensor& dy, const Tensor& code, int64_t n, int64_t k,
                   const Visit& visit) {
    const Pool2d& pool = problem.pool;
    for (int64_t pp = 0; pp < pool.P; ++pp) {
        for (int64_t qq = 0; qq < pool.Q; ++qq) {
            const T g = at<T>(dy, n, k, pp, qq);
            int winner = 0;
            if (problem.epilogue == Epilogue::relu) {
                if (!(mask_byte(code, problem.conv, n, k, pp, qq) >> (qq % 8) & 1)) continue;
            } else if (problem.epilogue == Epilogue::relu_max_pool) {
                winner = at<uint8_t>(code, n, k, pp, qq);
                if (winner == dead) continue;
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
        if (args.dbias.data && c == 0) static_cast<T*>(args.dbias.data)[k * args.dbias.stride[0]] = T(bias_sum);
    });
}

bool any_problem(const Conv2dProblem&) { return true; }
size_t no_workspace(const Conv2dProblem&) { return 0; }

template <class Args, void (*for_float)(const Conv2dProblem&, const Args&),
          void (*for_double)(const Conv2dProblem&, const Args&)>
void run(const Conv2dProblem& problem, const Args& args, void*) {
    (problem.dtype == DType::float32 ? for_float : for_double)(problem, args);
}

}  // namespace

const Implementation<FpropArgs> plain_fprop = {"plain", any_problem, no_workspace,
                                               run<FpropArgs, fprop<float>, fprop<double>>};
const Implementation<DgradArgs> plain_dgrad = {"plain", any_problem, no_workspace,
                                               run<DgradArgs, dgrad<float>, dgrad<double>>};
const Implementation<WgradArgs> plain_wgrad = {"plain", any_problem, no_workspace,
                                               run<WgradArgs, wgrad<float>, wgrad<double>>};

}  // namespace fastconv::cpu
