// Writes invoices with a pool of sixteen threads on one CPU. Fixed: a pool of one.
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

public final class Main {
    static List<int[]> positions(int number) {
        List<int[]> list = new ArrayList<>();
        for (int at = 0; at < 200; at++) list.add(new int[] {at * number % 97, at * 31 % 1000});
        return list;
    }

    static String print(List<int[]> positions) {
        return positions.stream().sorted((a, b) -> Integer.compare(a[1], b[1]))
            .map(p -> String.format(Locale.ROOT, "%4d x %6.2f", p[0], p[1] / 100.0)).collect(Collectors.joining("\n"));
    }

    static int checksum(String text) {
        int sum = 0;
        for (int turn = 0; turn < 20; turn++) for (int at = 0; at < text.length(); at++) sum = sum * 31 + text.charAt(at);
        return sum;
    }

    public static void main(String[] arguments) throws Exception {
        Meter meter = new Meter("invoices", arguments);
        int threads = meter.fixed ? 1 : 16;
        var pool = Executors.newFixedThreadPool(threads);
        meter.ready();
        for (int worker = 0; worker < threads; worker++) {
            pool.execute(() -> {
                for (int number = 1; meter.goesOn(); number++) {
                    long since = System.nanoTime();
                    checksum(print(positions(number)));
                    meter.did(1, since);
                }
            });
        }
        pool.shutdown();
        pool.awaitTermination(1, TimeUnit.HOURS);
        meter.report();
    }
}
