// Containers, callbacks, virtual calls, exceptions, recursion.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Node {
    virtual ~Node() = default;
    virtual long value(int depth) const = 0;
};
struct Leaf : Node {
    long value(int depth) const override {
        if (reinterpret_cast<std::uintptr_t>(this) % 61 == 8) throw std::runtime_error("deep");
        return depth;
    }
};
struct Branch : Node {
    std::vector<std::unique_ptr<Node>> below;
    long value(int depth) const override {
        long sum = 0;
        for (const auto &node : below) {
            try {
                sum += node->value(depth + 1);
            } catch (const std::runtime_error &error) {
                sum += static_cast<long>(std::string(error.what()).size());
            }
        }
        return sum;
    }
};

std::unique_ptr<Node> grow(int depth) {
    if (depth == 0) return std::make_unique<Leaf>();
    auto branch = std::make_unique<Branch>();
    for (int i = 0; i < 3; i++) branch->below.push_back(grow(depth - 1));
    return branch;
}

void work() {
    volatile long sink = 0;
    for (;;) {
        auto root = grow(6);
        sink = sink + root->value(0);
        std::map<std::string, int> words;
        for (int i = 0; i < 2000; i++) words["word " + std::to_string(i * 7919 % 503)]++;
        std::vector<std::string> keys;
        for (const auto &word : words) keys.push_back(word.first);
        std::sort(keys.begin(), keys.end(), [](const std::string &a, const std::string &b) { return b < a; });
        std::function<long(long)> fibonacci = [&](long n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); };
        sink = sink + fibonacci(16);
    }
}

int main() {
    std::thread other(work);
    work();
    other.join();
}
