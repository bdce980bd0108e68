"""The AMQP door: RabbitMQ through pika."""
