# A device by uamqp, the stack under Azure's SDK for C: by a token that it puts after
# SASL MSSBCBS, with telemetry in batches.
# Usage: device_uamqp.py PORT DEVICE-ID TOKEN CA-FILE
import sys
import uamqp
from uamqp import authentication

port, device, token, ca = sys.argv[1:]


def auth(token):
    return authentication.SASTokenAuth('localhost/devices/' + device, 'amqps://localhost/devices/' + device, token, expires_in=None, expires_at=4102444800,
                                       port=int(port), verify=ca)


def node(name):
    return 'amqps://localhost/devices/' + device + '/' + name


try:
    client = uamqp.SendClient(node('messages/events'), auth=auth(token.replace('sig=', 'sig=AAAA')))
    client.send_message(uamqp.Message(b'forged'))
    print('a forged token is let in')
except Exception as e:
    print('refused:', type(e).__name__, e)
    client.close()

client = uamqp.SendClient(node('messages/events'), auth=auth(token))
client.queue_message(uamqp.BatchMessage(data=(b'one', b'two', b'three')))
client.queue_message(uamqp.Message(b'x' * 100000))
print('stored', [str(r) for r in client.send_all_messages()])
client.close()

receiver = uamqp.ReceiveClient(node('messages/devicebound'), auth=auth(token), timeout=120000, prefetch=1, auto_complete=False)
n = 0
for m in receiver.receive_messages_iter():
    print('received', m.properties.message_id.decode(), b''.join(m.get_data()).decode())
    m.accept()
    n += 1
    if n == 2:
        break
receiver.close()
