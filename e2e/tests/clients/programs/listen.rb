# Prints what is in each file that the gem `listen` reports in the current directory.
require "listen"
Listen.to(Dir.pwd, latency: 0.05, wait_for_delay: 0.05) do |modified, added, _removed|
  (modified + added).each { |file| puts File.read(file) }
  STDOUT.flush
end.start
sleep
