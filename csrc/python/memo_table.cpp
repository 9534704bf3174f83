// The memo table makes keys of tensors, finds values by them, and empties itself when full.
#include "memo_table.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace fastconv::python {
namespace {

using Key = std::vector<int64_t>;

struct Hash {
    size_t operator()(const Key& key) const {
        uint64_t hash = 0xcbf29ce484222325;
        for (const int64_t value : key) hash = (hash ^ uint64_t(value)) * 0x9e3779b97f4a7c15, hash ^= hash >> 29;
        return size_t(hash);
    }
};

PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }

// A tag stands before each part of a key, so two keys are equal only if all of their parts are.
enum Tag : int64_t { tensor_tag = 1, none_tag, bool_tag, int_tag, sequence_tag, string_tag };

// KeyMaker adds values to a key. A method returns false if a key cannot hold the value, and clears Python's error.
class KeyMaker {
public:
    explicit KeyMaker(std::vector<PyTypeObject*> types) : types_(std::move(types)) {}

    bool tensor(PyObject* t, Key& key) const {
        bool known = false;
        for (const PyTypeObject* type : types_) known |= Py_TYPE(t) == type;
        if (!known || flag(t, is_neg_, true) != 0) return false;
        const int on_cpu = flag(t, is_cpu_, false);
        if (on_cpu != 1 && flag(t, is_cuda_, false) != 1) return false;
        const int wants_grad = flag(t, requires_grad_, false);
        const auto dtype = py::reinterpret_steal<py::object>(PyObject_GetAttr(t, dtype_));
        const auto layout = py::reinterpret_steal<py::object>(PyObject_GetAttr(t, layout_));
        const auto shape = py::reinterpret_steal<py::object>(PyObject_GetAttr(t, shape_));
        const auto stride = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(t, stride_));
        if (wants_grad < 0 || !dtype || !layout || !shape || !stride) return fail();
        key.push_back(tensor_tag);
        key.push_back(wants_grad);
        // torch keeps one object for each dtype and each layout
        key.push_back(int64_t(reinterpret_cast<intptr_t>(dtype.ptr())));
        key.push_back(int64_t(reinterpret_cast<intptr_t>(layout.ptr())));
        if (on_cpu == 1) {
            key.push_back(-1);
        } else {
            const auto device = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(t, get_device_));
            if (!device || !integer(device.ptr(), key)) return fail();
        }
        return sequence(shape.ptr(), key) && sequence(stride.ptr(), key);
    }

    bool other(PyObject* value, Key& key) const {
        if (value == Py_None) return key.push_back(none_tag), true;
        if (PyBool_Check(value)) return key.push_back(bool_tag), key.push_back(value == Py_True), true;
        if (PyLong_CheckExact(value)) return key.push_back(int_tag), integer(value, key);
        if (PyTuple_Check(value) || PyList_CheckExact(value)) return sequence(value, key);
        if (PyUnicode_CheckExact(value)) return string(value, key);
        return false;
    }

private:
    std::vector<PyTypeObject*> types_;
    PyObject *is_neg_ = interned("is_neg"), *is_cpu_ = interned("is_cpu"), *is_cuda_ = interned("is_cuda"),
             *requires_grad_ = interned("requires_grad"), *dtype_ = interned("dtype"), *layout_ = interned("layout"),
             *get_device_ = interned("get_device"), *shape_ = interned("shape"), *stride_ = interned("stride");

    static bool fail() {
        PyErr_Clear();
        return false;
    }

    // An attribute, or a method's result: 1 for true, 0 for false, -1 for anything else.
    static int flag(PyObject* t, PyObject* name, bool method) {
        const auto value =
            py::reinterpret_steal<py::object>(method ? PyObject_CallMethodNoArgs(t, name) : PyObject_GetAttr(t, name));
        if (!value) PyErr_Clear();
        return value.ptr() == Py_True ? 1 : value.ptr() == Py_False ? 0 : -1;
    }

    static bool integer(PyObject* value, Key& key) {
        if (!PyLong_CheckExact(value)) return false;
        key.push_back(PyLong_AsLongLong(value));
        return !(key.back() == -1 && PyErr_Occurred()) || fail();
    }

    static bool sequence(PyObject* value, Key& key) {
        key.push_back(sequence_tag);
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(value);
        key.push_back(count);
        for (Py_ssize_t i = 0; i < count; ++i)
            if (!integer(PySequence_Fast_GET_ITEM(value, i), key)) return false;
        return true;
    }

    static bool string(PyObject* value, Key& key) {
        Py_ssize_t length;
        const char* text = PyUnicode_AsUTF8AndSize(value, &length);
        if (!text) return fail();
        key.push_back(string_tag);
        key.push_back(length);
        for (Py_ssize_t at = 0; at < length; at += 8) {
            int64_t part = 0;
            std::memcpy(&part, text + at, size_t(std::min<Py_ssize_t>(8, length - at)));
            key.push_back(part);
        }
        return true;
    }
};

// A key has three parts. Tensors, of exactly the given types (or None), on CPUs or GPUs and not negated, give their
// sizes, strides, layouts, dtypes, devices and requires_grad. Other arguments give their values: None, bool, int, str,
// sequences of int. Functions that are called each time give their results, such as torch's settings.
class MemoTable {
public:
    MemoTable(int tensors, const py::sequence& types, const py::sequence& settings)
        : tensors_(size_t(tensors)), maker_(types_of(types)) {
        if (tensors < 0) throw std::invalid_argument("tensors must not be negative, got " + std::to_string(tensors));
        for (const auto& setting : settings) settings_.push_back(py::reinterpret_borrow<py::object>(setting));
    }

    py::object find(const py::args& given) const {
        Key key = std::exchange(spare_, {});
        key.clear();
        py::object value = py::none();
        if (make(given, key))
            if (const auto found = values_.find(key); found != values_.end()) value = found->second;
        spare_ = std::move(key);
        return value;
    }

    // Remembers the result of make_value(). Does not call it if a key cannot hold the arguments.
    void add(const py::function& make_value, const py::args& given) {
        Key key;
        if (!make(given, key)) return;
        py::object value = make_value();
        // Dropped values are destroyed last, since their destructors may run any code.
        std::unordered_map<Key, py::object, Hash> forgotten;
        if (values_.size() >= most) forgotten.swap(values_);
        std::swap(values_[key], value);
    }

private:
    static constexpr size_t most = 4096;
    size_t tensors_;
    KeyMaker maker_;
    std::vector<py::object> settings_;
    std::unordered_map<Key, py::object, Hash> values_;
    mutable Key spare_;  // memory for the next one

    static std::vector<PyTypeObject*> types_of(const py::sequence& types) {
        std::vector<PyTypeObject*> all;
        for (const auto& type : types) {
            if (!PyType_Check(type.ptr())) throw py::type_error("expected types, got " + std::string(py::repr(type)));
            Py_INCREF(type.ptr());  // for as long as the process
            all.push_back(reinterpret_cast<PyTypeObject*>(type.ptr()));
        }
        return all;
    }

    // Asking for settings may let another thread run.
    bool make(const py::args& given, Key& key) const {
        for (size_t i = 0; i < given.size(); ++i) {
            PyObject* const value = PyTuple_GET_ITEM(given.ptr(), Py_ssize_t(i));
            const bool tensor = i < tensors_ && value != Py_None;
            if (!(tensor ? maker_.tensor(value, key) : maker_.other(value, key))) return false;
        }
        for (const auto& setting : settings_) {
            const auto value = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(setting.ptr()));
            if (!value) throw py::error_already_set();
            if (!maker_.other(value.ptr(), key)) return false;
        }
        return given.size() >= tensors_;
    }
};

}  // namespace

void add_memo_table(py::module_& m) {
    py::class_<MemoTable>(m, "MemoTable", "Objects remembered by the sizes, strides, dtypes and devices of tensors.")
        .def(py::init<int, py::sequence, py::sequence>(), py::arg("tensors"), py::arg("types"), py::arg("settings"))
        .def("find", &MemoTable::find)
        .def("add", &MemoTable::add);
}

}  // namespace fastconv::python
