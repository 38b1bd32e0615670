// Sells tickets; the whole sale, payment included, is synchronized. Fixed: only the counting is.
import java.util.HashMap;
import java.util.Map;

public final class Main {
    private final Map<Integer, Integer> sold = new HashMap<>();

    private synchronized int count(int concert) {
        return sold.merge(concert, 1, Integer::sum);
    }

    private static void pay() throws InterruptedException {
        Thread.sleep(2);
    }

    synchronized void sellInOne(int concert) throws InterruptedException {
        count(concert);
        pay();
    }

    void sellInTwo(int concert) throws InterruptedException {
        count(concert);
        pay();
    }

    public static void main(String[] arguments) throws Exception {
        Meter meter = new Meter("tickets", arguments);
        Main office = new Main();
        Thread[] counters = new Thread[8];
        meter.ready();
        for (int at = 0; at < counters.length; at++) {
            int first = at;
            counters[at] = new Thread(() -> {
                try {
                    for (int concert = first; meter.goesOn(); concert++) {
                        long since = System.nanoTime();
                        if (meter.fixed) office.sellInTwo(concert % 9);
                        else office.sellInOne(concert % 9);
                        meter.did(1, since);
                    }
                } catch (InterruptedException ended) {
                    Thread.currentThread().interrupt();
                }
            });
            counters[at].start();
        }
        for (Thread counter : counters) counter.join();
        meter.report();
    }
}
