// What every program of this folder measures of itself; see meter.h, whose output this prints too.
import java.lang.management.ManagementFactory;
import java.util.Arrays;
import java.util.concurrent.atomic.LongAdder;

final class Meter {
    final boolean fixed;
    private final double seconds;
    private final String unit;
    private final LongAdder work = new LongAdder();
    private final LongAdder busyNs = new LongAdder();
    private long begun;
    private long cpuBegun;

    Meter(String unit, String[] arguments) {
        this.unit = unit;
        int at = Arrays.asList(arguments).indexOf("--seconds");
        seconds = at < 0 ? 10 : Double.parseDouble(arguments[at + 1]);
        fixed = Arrays.asList(arguments).contains("--fixed");
    }

    private static long cpu() {
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return system.getProcessCpuTime();
    }

    void ready() {
        System.out.println("ready");
        cpuBegun = cpu();
        begun = System.nanoTime();
    }

    boolean goesOn() {
        return System.nanoTime() - begun < seconds * 1e9;
    }

    void did(int pieces, long since) {
        work.add(pieces);
        busyNs.add(System.nanoTime() - since);
    }

    // Waits for the next of `rate` requests a second; at once while behind. `due` holds one number for each caller.
    long nextRequest(long[] due, double rate) throws InterruptedException {
        long now = System.nanoTime();
        if (due[0] < now - 500_000_000L) due[0] = now;
        if (due[0] > now + 2_000_000) {
            Thread.sleep((due[0] - now) / 1_000_000, (int) ((due[0] - now) % 1_000_000));
            now = System.nanoTime();
        }
        due[0] += (long) (1e9 / rate);
        return now;
    }

    void report() {
        System.out.printf("{\"unit\":\"%s\",\"work\":%d,\"seconds\":%.3f,\"cpu_s\":%.4f,\"busy_s\":%.4f}%n", unit,
            work.sum(), (System.nanoTime() - begun) / 1e9, (cpu() - cpuBegun) / 1e9, busyNs.sum() / 1e9);
    }
}
