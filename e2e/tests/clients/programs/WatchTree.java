// Prints what Java's WatchService tells of a tree: `java WatchTree.java DIRECTORY`.
import static java.nio.file.StandardWatchEventKinds.*;

import java.io.IOException;
import java.nio.file.*;
import java.util.*;

public class WatchTree {
    static final Map<WatchKey, Path> dirs = new HashMap<>();

    public static void main(String[] args) throws Exception {
        Path top = Path.of(args[0]);
        WatchService service = top.getFileSystem().newWatchService();
        register(top, service);
        System.out.println("ready");
        while (true) {
            WatchKey key = service.take();
            for (WatchEvent<?> event : key.pollEvents()) {
                if (event.kind() == OVERFLOW) {
                    System.out.println("OVERFLOW");
                    continue;
                }
                Path path = dirs.get(key).resolve((Path) event.context());
                if (event.kind() == ENTRY_CREATE && Files.isDirectory(path)) register(path, service);
                System.out.println(event.kind() + " " + top.relativize(path));
            }
            key.reset();
        }
    }

    static void register(Path top, WatchService service) throws IOException {
        try (var paths = Files.walk(top)) {
            for (Path path : (Iterable<Path>) paths.filter(Files::isDirectory)::iterator) {
                dirs.put(path.register(service, ENTRY_CREATE, ENTRY_MODIFY, ENTRY_DELETE), path);
            }
        }
    }
}
