"""What the platform starts for one table and one stage: a Spark of its own that runs one statement and ends.

spark-submit runs it as a script and gives it the settings, so it imports nothing of ours.
"""

import sys

from pyspark.sql import SparkSession

if __name__ == "__main__":
    spark = SparkSession.builder.appName("maintenance").getOrCreate()
    print(spark.sql(sys.argv[1]).collect())
    spark.stop()
