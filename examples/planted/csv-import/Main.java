// Imports price lists: reads the file byte by byte from the stream it opened. Fixed: through a BufferedInputStream.
import java.io.BufferedInputStream;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;

public final class Main {
    static int readRow(InputStream in, StringBuilder row) throws IOException {
        row.setLength(0);
        for (int c = in.read(); c >= 0 && c != '\n'; c = in.read()) row.append((char) c);
        return row.length();
    }

    static long importList(Path list, boolean buffered) throws IOException {
        long total = 0;
        StringBuilder row = new StringBuilder();
        try (InputStream file = new FileInputStream(list.toFile());
             InputStream in = buffered ? new BufferedInputStream(file) : file) {
            while (readRow(in, row) > 0) total += Long.parseLong(row.substring(row.lastIndexOf(";") + 1));
        }
        return total;
    }

    public static void main(String[] arguments) throws Exception {
        Meter meter = new Meter("lists", arguments);
        Path list = Files.createTempFile("prices", ".csv");
        StringBuilder text = new StringBuilder();
        for (int row = 0; row < 100; row++) text.append("article-").append(row).append(";piece;").append(row * 17).append('\n');
        Files.writeString(list, text);
        long[] due = {System.nanoTime()};
        long sum = 0;
        meter.ready();
        while (meter.goesOn()) {
            long since = meter.nextRequest(due, 1000);
            sum += importList(list, meter.fixed);
            meter.did(1, since);
        }
        Files.delete(list);
        if (sum > 0) meter.report();
    }
}
