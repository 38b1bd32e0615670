// A Java service with a scheduled executor, an idle pool and a request now and then.
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

public final class Main {
    public static void main(String[] arguments) throws Exception {
        Meter meter = new Meter("beats", arguments);
        var pool = Executors.newFixedThreadPool(12);
        for (int worker = 0; worker < 12; worker++) pool.execute(() -> { });
        var beat = Executors.newScheduledThreadPool(2);
        Thread.sleep(2000);
        meter.ready();
        beat.scheduleAtFixedRate(() -> {
            long since = System.nanoTime();
            pool.execute(() -> meter.did(1, since));
        }, 0, 200, TimeUnit.MILLISECONDS);
        while (meter.goesOn()) Thread.sleep(100);
        meter.report();
        System.exit(0);
    }
}
